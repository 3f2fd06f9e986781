"""The Space, and `make run`: one model, one page.

EVOXTRAL_MODEL names the model: auto (default), tiny, mini-3b, a folder with base/, sft/ and rl/, or a Hub id.
GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where the page is served.
"""

import spaces  # isort: skip  # noqa: F401  first: on ZeroGPU it takes CUDA's place before torch is imported

import logging
from pathlib import Path

from evoxtral.ui.model import Model
from evoxtral.ui.page import build, serve

logging.basicConfig(format="%(message)s")
logging.getLogger("evoxtral").setLevel(logging.INFO)  # which model runs, and why
model = Model("auto")
demo = build(model, examples=Path(__file__).parent / "examples")

if __name__ == "__main__":
    serve(demo, model)
