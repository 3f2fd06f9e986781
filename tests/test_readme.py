"""The README's commands and snippets, run from top to bottom in one folder, as a reader would.

Those of this package run in this process (`shell.execute`), so that PyTorch is imported once; `curl` in a shell.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from launched import app_url
from shell import EVOXTRAL, execute

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
VERBS = sorted(set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE)))  # they set up and serve: not run
APP = "http://localhost:7860"
SNIPPETS = [(language, code) for language, code in BLOCKS if not code.startswith("make ")]


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory) -> Path:
    """Where a reader works, with the predictions and the adapter that the README mentions."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(checkpoint.adapters["sft"], folder / "my-lora")
    pair = json.dumps({"prediction": "[sighs] Hello.", "reference": "[sighs] Hello."})
    (folder / "predictions.jsonl").write_text(pair, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def environment(checkpoint) -> dict[str, str]:
    """The reader's shell: virtual environment on, and the tests' model as the one for this machine."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    model = str(Path(checkpoint.base).parent)
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "EVOXTRAL_MODEL": model}


def test_the_readme_has_commands_and_a_snippet():
    assert {language for language, _ in SNIPPETS} == {"sh", "python"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_make_verb_exists(verb):
    done = subprocess.run(["make", "--dry-run", verb], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def finished(folder, environment) -> list[str | None]:
    """Every block, run in order, as later ones read the files of earlier ones: why it failed, "" if it did not.
    None without curl."""
    done: list[str | None] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EVOXTRAL_MODEL", environment["EVOXTRAL_MODEL"])
        for language, code in SNIPPETS:
            if "curl" in code and shutil.which("curl") is None:
                done.append(None)
                continue
            if APP in code:
                code = code.replace(APP, app_url())
            done.append(complaint(language, code, environment))
    return done


def complaint(language: str, code: str, environment: dict[str, str]) -> str:
    """Run a block in the current folder; what it ended with, "" if nothing is wrong."""
    lines = code.strip().splitlines()
    if language == "sh" and not all(EVOXTRAL in line for line in lines):
        program = ["bash", "-euo", "pipefail", "-c", code]
        ended = subprocess.run(program, env=environment, capture_output=True, text=True)
        return f"{ended.returncode}: {ended.stderr}" if ended.returncode else ""
    try:
        for line in lines if language == "sh" else ():
            execute(line)
        if language == "python":
            exec(code, {})  # noqa: S102 - the document's own code
    except (Exception, SystemExit):
        return traceback.format_exc()
    return ""


@pytest.mark.parametrize("number", range(len(SNIPPETS)), ids=[f"{n}-{lang}" for n, (lang, _) in enumerate(SNIPPETS, 1)])
def test_every_block_runs(finished, number):
    if finished[number] is None:
        pytest.skip("no curl on this machine")
    assert finished[number] == ""


def test_the_command_lines_write_the_files_they_name(finished, folder):
    assert {"hello.wav", "hello.json", "hello.srt", "results.jsonl"} <= {path.name for path in folder.iterdir()}


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", README)
    assert {"docs/images/pipeline.svg", "docs/images/compare.png"} <= set(links)
    assert [link for link in links if not (ROOT / link).exists()] == []
