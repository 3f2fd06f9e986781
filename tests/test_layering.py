"""The picture in docs/design.md, as far as ruff's import rules (pyproject.toml) cannot say it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "evoxtral"

# From the ground floor up; a module imports from floors below its own, or from its own floor.
FLOORS = (
    {"errors", "tags"},
    {"transcript"},
    {"metrics", "results"},
    {"audio"},
    {"prompt", "checkpoints", "lora", "text_model", "encoder", "kernels", "decode", "memory", "speech"},
    {"engine"},
    {"bulk", "ui", "serve"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

HEAVY = {"torch", "transformers", "peft", "gradio", "librosa", "scipy", "matplotlib"}
LIGHT_MODULES = {
    "evoxtral": HEAVY | {"numpy"},
    "evoxtral.tags": HEAVY | {"numpy"},
    "evoxtral.transcript": HEAVY | {"numpy"},
    "evoxtral.cli": HEAVY | {"numpy"},
    "evoxtral.metrics": HEAVY,
    "evoxtral.audio": HEAVY,
    "evoxtral.speech": HEAVY,
}


def rooms_imported_by(file: Path) -> set[str]:
    """The parts of evoxtral that a file imports, at module level or inside functions."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module="evoxtral", level=0):
                rooms.update(alias.name for alias in node.names if not alias.name.startswith("_"))
            case ast.ImportFrom(module=str(module), level=0) if module.startswith("evoxtral."):
                rooms.add(module.split(".")[1])
            case ast.Import():
                rooms.update(a.name.split(".")[1] for a in node.names if a.name.startswith("evoxtral."))
            case ast.ImportFrom(level=level) if level > 0:
                pytest.fail(f"{file}: relative imports hide which floor a module is on")
    return rooms


def test_every_module_has_its_floor_and_imports_only_downwards():
    upwards = []
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            assert rooms_imported_by(file) == set()
            continue
        above = (other for other in rooms_imported_by(file) if FLOOR[other] > FLOOR[room])
        upwards += [f"{room} imports {other}" for other in above]
    assert upwards == []


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_a_light_module_starts_without_heavy_packages(module):
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    ).stdout.split()
    assert LIGHT_MODULES[module].isdisjoint(loaded)
