"""The steps of the Dockerfile in a clean virtual environment, for machines without Docker.

    python deploy/run_image_steps.py --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu

COPY and RUN in a temporary folder, with ENV and ARG set; RUN of useradd, which needs root, is left out. Then CMD is
started, HEALTHCHECK asked until it passes, and the service ended by SIGTERM. The base image and its Python are not
checked: this one's is used.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PORT = "8000"  # in the Dockerfile


def instructions() -> Iterator[tuple[str, str]]:
    """Name and arguments of each instruction, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def served(command: list[str], health: list[str], folder: Path, env: dict[str, str]) -> None:
    """Start the service on a free port, wait for its health, and end it."""
    port = free_port()
    command, health = ([word.replace(PORT, port) for word in words] for words in (command, health))
    with subprocess.Popen(command, cwd=folder, env=env) as service:
        while subprocess.run(health, cwd=folder, env=env, stderr=subprocess.DEVNULL).returncode:
            if service.poll() is not None:
                sys.exit(f"CMD ended with exit code {service.returncode}.")
            time.sleep(1)
        service.send_signal(signal.SIGTERM)
        if (code := service.wait()) not in (0, -signal.SIGTERM):
            sys.exit(f"CMD ended with exit code {code} after SIGTERM.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    given = dict(one.split("=", 1) for one in parser.parse_args().build_arg)
    with tempfile.TemporaryDirectory() as scratch:
        app, home, command, health = Path(scratch) / "app", Path(scratch) / "venv", [], []
        app.mkdir()
        venv.create(home, with_pip=True)
        env = os.environ | {"PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
        env.pop("PYTHONPATH", None)
        for name, rest in instructions():
            if name == "ARG":
                key, _, value = rest.partition("=")
                env[key] = given.get(key, value)
            elif name == "ENV":
                for pair in shlex.split(rest):
                    key, _, value = pair.partition("=")
                    env[key] = re.sub(r"\$\{(\w+)\}", lambda found: env[found[1]], value).replace("/data", scratch)
            elif name == "COPY":
                *sources, target = rest.split()
                for source in sources:
                    copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                    copy(ROOT / source, app / target)
            elif name == "RUN" and "useradd" not in rest:
                print("RUN", rest, flush=True)
                subprocess.run(["sh", "-ec", rest], cwd=app, env=env, check=True)
            elif name == "CMD":
                command = yaml.safe_load(rest)
            elif name == "HEALTHCHECK":
                health = yaml.safe_load(rest[rest.index("CMD") + 3 :])
        served(command, health, app, env)
    print("All steps passed; the service was healthy, and ended in order.")


if __name__ == "__main__":
    main()
