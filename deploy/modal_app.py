"""The service on Modal: a GPU while somebody asks, none otherwise.

    pip install modal && modal setup
    modal deploy deploy/modal_app.py

Not deployed by this project. Callers need a proxy token of the Modal workspace (headers `Modal-Key` and
`Modal-Secret`). Weights are kept in a volume, so that they are downloaded once. A container stays for SCALE_DOWN
seconds after its last request. Its state after the imports and the download of the weights is kept as a memory
snapshot, from which the next one starts.
"""

import modal

MODEL = "mini-3b"
GPU = "L4"  # 24 GB; mini-3b needs 12
SCALE_DOWN = 120  # s
AT_ONCE = 16  # requests of one container: it decodes two and the others wait

image = (
    modal.Image.debian_slim(python_version="3.12")
    .pip_install_from_requirements("requirements.txt")
    .pip_install("fastapi>=0.165,<1", "uvicorn>=0.54,<1", "python-multipart>=0.0.34,<0.1", "prometheus-client>=0.22,<1")
    .env({"HF_HOME": "/weights", "EVOXTRAL_MODEL": MODEL})
    .add_local_dir("evoxtral", "/root/evoxtral")  # with its data: add_local_python_source takes .py files alone
)
weights = modal.Volume.from_name("evoxtral-weights", create_if_missing=True)
app = modal.App("evoxtral", image=image)


@app.cls(
    gpu=GPU,
    volumes={"/weights": weights},
    scaledown_window=SCALE_DOWN,
    timeout=1800,
    enable_memory_snapshot=True,
)
@modal.concurrent(max_inputs=AT_ONCE)
class Evoxtral:
    """One container."""

    @modal.enter(snap=True)
    def read(self) -> None:
        """Before the snapshot, where there is no GPU: imports, and the files of the weights."""
        from evoxtral.model import checkpoints, hub
        from evoxtral.serve import api  # noqa: F401 - torch and FastAPI are in the snapshot

        self.checkpoint = checkpoints.resolve(MODEL)
        for reference in (self.checkpoint.base, *self.checkpoint.adapters.values()):
            hub.fetch(reference)
        if not modal.is_local():
            weights.commit()

    @modal.enter(snap=False)
    def load(self) -> None:
        """After it, on the GPU."""
        from evoxtral.inference.engine import Engine

        self.engine = Engine(self.checkpoint)

    @modal.asgi_app(requires_proxy_auth=True)
    def serve(self):
        """All routes of `python -m evoxtral serve`."""
        from evoxtral.serve.api import create_app

        return create_app(self.engine)
