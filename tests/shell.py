"""Lines that documents show, run in this process: every process of its own would import PyTorch again."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Mapping

import pytest

from evoxtral import cli

EVOXTRAL = "python -m evoxtral "


def execute(line: str, programs: Mapping[str, Callable[[list[str]], int]] | None = None) -> None:
    """One line of a shell: `NAME=value … python -m evoxtral …`, or one of `programs` by its path; `> FILE` at its end.

    Fails if it ends with another code than 0.
    """
    words = shlex.split(line)
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        while "=" in words[0]:
            patch.setenv(*words.pop(0).split("=", 1))
        if ">" in words:
            *words, _, name = words
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(name, "w", encoding="utf-8"))))
        assert words.pop(0) == "python"
        program = cli.main if words[0] == "-m" else programs[words[0]]
        assert program(words[2 if words[0] == "-m" else 1 :]) == 0, line
        sys.stdout.flush()
