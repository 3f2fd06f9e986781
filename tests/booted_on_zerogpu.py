"""Load the scale model as a ZeroGPU Space does at boot, and print as JSON what ZeroGPU would keep for the GPU.

Run as a process of its own, with a folder for the files. At boot a Space has no GPU: ZeroGPU's package emulates CUDA,
and packs what was "moved" there into files, from which each visit's process loads it. The emulation is the package's
own; of PyTorch for CUDA, which it asks for, only three names are stood in for here.
"""

import json
import os
import sys

import torch

torch.version.cuda = torch.version.cuda or "13.0"
torch._C._cuda_init = None  # the emulation replaces it by one that raises: nothing may reach the driver
torch.cuda._is_in_bad_fork = bool
os.environ["SPACES_ZERO_GPU"] = "true"
os.environ["SPACES_ZERO_DEVICE_API_URL"] = "http://localhost"  # asked for a GPU only when somebody visits
os.environ["ZEROGPU_OFFLOAD_DIR"] = sys.argv[1]

import spaces  # noqa: E402  as app.py does: before what touches CUDA
from spaces.zero import torch as zerogpu  # noqa: E402

from evoxtral.inference.engine import Engine  # noqa: E402
from evoxtral.model import checkpoints  # noqa: E402

assert torch.cuda.is_available() and spaces.config.Config.zero_gpu
engine = Engine(checkpoints.resolve("tiny"))
held = {}
for module in (engine._text, engine._encoder):
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        held[id(tensor)] = name, tensor.nbytes, tensor.device.type
print(
    json.dumps(
        {
            "device": engine.device.type,
            "dtype": str(engine.dtype),
            "elsewhere": [name for name, _, device in held.values() if device != "cuda"],
            "held_bytes": sum(size for _, size, _ in held.values()),
            "packed_bytes": zerogpu.pack(),
        }
    )
)
