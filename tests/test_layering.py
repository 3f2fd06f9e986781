"""Imports of evoxtral/ as a graph: folders without cycles, each only on what stands below it, and light start-ups."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "evoxtral"

# What each folder, or module beside the folders, may import of the others (docs/design.md has the picture).
BELOW = {
    "errors": set(),
    "tags": set(),
    "foreign_formats": {"tags"},
    "words": {"tags"},
    "subtitles": {"words", "tags"},
    "transcript": {"subtitles", "words", "tags", "errors"},
    "results": {"transcript"},
    "exports": {"results", "transcript", "foreign_formats", "errors"},
    "confidence": {"transcript", "tags"},
    "metrics": {"tags", "errors"},
    "audio": {"errors"},
    "speech": {"audio", "foreign_formats", "tags", "errors"},
    "model": {"errors"},
    "inference": {
        "audio",
        "model",
        "speech",
        "confidence",
        "transcript",
        "words",
        "results",
        "exports",
        "tags",
        "errors",
    },
    "bench": {"inference", "audio", "model", "speech", "metrics", "transcript", "words", "tags", "errors"},
    "serve": {"exports", "foreign_formats", "inference", "audio", "model", "transcript", "results", "tags", "errors"},
    "ui": {
        "exports",
        "foreign_formats",
        "confidence",
        "inference",
        "audio",
        "model",
        "speech",
        "metrics",
        "transcript",
        "words",
        "results",
        "tags",
        "errors",
    },
    "cli": {
        "bench",
        "serve",
        "inference",
        "audio",
        "model",
        "speech",
        "metrics",
        "confidence",
        "transcript",
        "results",
        "tags",
        "errors",
        "exports",
        "foreign_formats",
    },  # fmt: skip
    "__main__": {"cli"},
    "__init__": {"inference", "metrics", "speech", "transcript"},  # its public names, each imported when it is used
}

HEAVY = {"torch", "transformers", "peft", "gradio", "librosa", "scipy", "matplotlib"}
LIGHT_MODULES = {
    "evoxtral": HEAVY | {"numpy"},
    "evoxtral.tags": HEAVY | {"numpy"},
    "evoxtral.subtitles": HEAVY | {"numpy"},
    "evoxtral.transcript": HEAVY | {"numpy"},
    "evoxtral.cli": HEAVY | {"numpy"},
    "evoxtral.metrics": HEAVY,
    "evoxtral.audio": HEAVY,
    "evoxtral.speech": HEAVY,
    "evoxtral.ui.page": {"torch", "transformers", "peft"},  # the page is served while they are imported
}


def imports_of(file: Path) -> set[str]:
    """The modules of evoxtral that a file imports, at module level or inside functions, by their dotted names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module=str(module), level=0) if module.split(".")[0] == "evoxtral":
                for alias in node.names:
                    inner = f"{module}.{alias.name}"
                    found.add(inner if is_module(inner) else module)
            case ast.Import():
                found.update(alias.name for alias in node.names if alias.name.split(".")[0] == "evoxtral")
            case ast.ImportFrom(level=level) if level > 0:
                pytest.fail(f"{file}: relative imports hide what a module stands on")
    return found


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def folder_of(name: str) -> str:
    """`evoxtral.audio.reading` -> "audio"; of `evoxtral` itself, whose version anything may read, "" ."""
    return name.split(".")[1] if "." in name else ""


def graph() -> dict[str, set[str]]:
    """Folder -> the other folders that its files import."""
    edges: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        folder = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        edges.setdefault(folder, set()).update(map(folder_of, imports_of(file)))
    return {folder: others - {folder, ""} for folder, others in edges.items()}


def test_every_folder_imports_only_lower_ones():
    edges = graph()
    assert edges.keys() == BELOW.keys()
    assert {folder: above for folder in edges if (above := edges[folder] - BELOW[folder])} == {}


def test_the_graph_of_folders_has_no_cycle():
    assert len([*TopologicalSorter(BELOW).static_order()]) == len(BELOW)


def test_the_graph_in_the_docs_is_the_one_tested():
    """Each arrow is an import that is allowed, and each that is allowed follows from arrows."""
    text = (PACKAGE.parent / "docs" / "design.md").read_text(encoding="utf-8")
    arrows: dict[str, set[str]] = {}
    for line in text.split("```mermaid\ngraph TD\n")[1].split("```")[0].strip().splitlines():
        steps = [step.strip().split(" & ") for step in line.split("-->")]
        for above, below in zip(steps[:-1], steps[1:], strict=True):
            arrows.setdefault(above[0], set()).update(below)
    assert {folder: wrong for folder in arrows if (wrong := arrows[folder] - BELOW[folder])} == {}
    reached: dict[str, set[str]] = {}
    for folder in TopologicalSorter(arrows).static_order():  # what stands lowest first
        below = arrows.get(folder, set())
        reached[folder] = below.union(*(reached[other] for other in below))
    drawn = BELOW.keys() - {"errors", "__init__", "__main__"}
    assert {folder: BELOW[folder] - reached.get(folder, set()) - {"errors"} for folder in drawn} == {
        folder: set() for folder in drawn
    }


def test_no_two_files_import_each_other():
    files = {}
    for file in PACKAGE.rglob("*.py"):
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        files[name.removesuffix(".__init__")] = imports_of(file)
    # A package's __init__ names what its files offer; that a file of it is imported through it is no circle.
    files = {name: {other for other in others if not name.startswith(f"{other}.")} for name, others in files.items()}
    assert [*TopologicalSorter(files).static_order()]  # raises CycleError, which names the files


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


def test_public_names_exist_and_no_others():
    import evoxtral

    assert all(callable(getattr(evoxtral, name)) for name in evoxtral.__all__)
    assert {*evoxtral.__all__} <= {*dir(evoxtral)}
    with pytest.raises(AttributeError, match="no attribute 'transcripts'"):
        evoxtral.transcripts  # noqa: B018
