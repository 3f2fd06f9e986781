# Evoxtral's HTTP service. For a CPU:
#     docker build -t evoxtral .
# For CUDA (PyTorch's wheel brings its own CUDA libraries; the host needs the driver and nvidia-container-toolkit):
#     docker build -t evoxtral-cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
# The scale model `tiny` is in the image. Other weights come by a volume (-v weights:/data), where Hub downloads are kept
# too, or into the image:
#     docker build -t evoxtral-mini --build-arg MODEL=mini-3b .
FROM python:3.12-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG MODEL=tiny

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    HF_HOME=/data/huggingface \
    EVOXTRAL_MODEL=${MODEL}

RUN useradd --create-home --uid 10001 evoxtral \
    && mkdir /data \
    && chown evoxtral /data

WORKDIR /app
# Packages first: a change of the code leaves this layer as it is.
COPY requirements.txt pyproject.toml README.md LICENSE ./
RUN pip install --index-url "${TORCH_INDEX}" "torch>=2.8,<=2.13.0" \
    && pip install -r requirements.txt
COPY evoxtral evoxtral
COPY training training
# hadolint ignore=DL3013
RUN pip install ".[api]"

USER 10001
RUN if [ "${MODEL}" != tiny ]; then python -c "import os; from evoxtral.model import checkpoints, hub; \
m = checkpoints.resolve(os.environ['EVOXTRAL_MODEL']); [hub.fetch(r) for r in (m.base, *m.adapters.values())]"; fi

EXPOSE 8000
VOLUME /data
# SIGTERM reaches Python itself, which then answers what it accepted.
CMD ["python", "-m", "evoxtral", "serve", "--host", "0.0.0.0", "--port", "8000"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=5m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready')"]
