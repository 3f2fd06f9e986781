"""Transcripts of one file or many as text, JSON, subtitles or a prompt: on the terminal, in a file, or in a folder."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from evoxtral import foreign_formats
from evoxtral.errors import EvoxtralError
from evoxtral.results import FileResult
from evoxtral.transcript import FORMATS, SUFFIXES, Transcript

STDIN = "-"


class ExportError(EvoxtralError):
    """An output path or a format that cannot be written."""


def content(transcript: Transcript, form: str, dialect: str | None = None) -> str:
    """A transcript in one of FORMATS, or its text in a dialect; without the tags that are hidden as doubtful, except in
    JSON."""
    if dialect is not None:
        return in_dialect(transcript, dialect).text
    return (transcript if form == "json" else transcript.without(transcript.hide_below)).export(form)


def in_dialect(transcript: Transcript, dialect: str) -> foreign_formats.Written:
    """The text of a transcript for a text-to-speech system; without the tags that are hidden as doubtful."""
    return foreign_formats.write(transcript.without(transcript.hide_below).text, dialect)


def is_folder(path: str) -> bool:
    """Whether an output name means a folder: it exists as one, ends in a slash, or has no suffix."""
    return Path(path).is_dir() or path.endswith(os.sep) or not Path(path).suffix


def write(path: Path, text: str) -> None:
    """Write a file atomically. Raises ExportError."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror}.") from error


class Folder:
    """A folder with a file for each recording and variant. done: the recordings whose files all exist."""

    def __init__(
        self,
        path: str | Path,
        form: str,
        files: Mapping[str, Path],
        variants: Sequence[str],
        dialect: str | None = None,
    ):
        """files: recording -> its path relative to the folder on the command line; its outputs get the same one.

        Raises ExportError where two recordings would be written to one file.
        """
        self.form, self.variants, self.dialect = form, variants, dialect
        stems = Counter(place.with_suffix("") for place in files.values())
        # a.wav and a.mp3 beside each other keep their whole names.
        own = {
            file: place if stems[place.with_suffix("")] > 1 else place.with_suffix("") for file, place in files.items()
        }
        twice = [place for place, count in Counter(own.values()).items() if count > 1]
        if twice:
            raise ExportError(f"Two recordings are both named {twice[0]}: write them to folders of their own.")
        self._names = {file: Path(path) / place for file, place in own.items()}
        self.done = frozenset(file for file in files if all(self.path(file, name).exists() for name in variants))

    def path(self, file: str, variant: str) -> Path:
        name = self._names[file]
        kind = SUFFIXES.get(self.form, self.form)
        return name.with_name(f"{name.name}.{kind}" if len(self.variants) == 1 else f"{name.name}.{variant}.{kind}")

    def add(self, file: str, model: str, transcripts: Mapping[str, Transcript], id: str | None = None) -> None:
        """JSON is that of the command line, of one variant each.  id: the recording's, where it is not `file`."""
        for variant, transcript in transcripts.items():
            if self.form == "json":
                result = asdict(FileResult.of(file, model, {variant: transcript}))
                text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            else:
                text = content(transcript, self.form, self.dialect).rstrip("\n") + "\n"
            write(self.path(id or file, variant), text)


class Output:
    """The output of `transcribe`: printed by `say` piece by piece, or written to a file or a folder.

    As a context manager it also writes the results so far after an error. Raises ExportError.
    """

    def __init__(
        self,
        path: str | None,
        form: str | None,
        files: Sequence[str],
        variants: Sequence[str],
        say: Callable[[str], object],
        dialect: str | None = None,
    ):
        self.form, self.dialect = form or _form_of(path), dialect
        if dialect is not None and self.form != "txt":
            raise ExportError(f"A dialect is of plain text files: leave --dialect out for {self.form}.")
        self._alone = len(files) == len(variants) == 1
        self._say, self._file, self._folder = say, None, None
        self._texts: list[str] = []
        self._results: list[dict] = []
        if path is not None and is_folder(path):
            places = {file: Path("stdin.wav" if file == STDIN else Path(file).name) for file in files}
            self._folder = Folder(path, self.form, places, variants, dialect)
        elif self.form in ("srt", "vtt") and not self._alone:
            raise ExportError(
                f"{self.form.upper()} holds one text: name a folder with -o for those of several files or variants."
            )
        elif path is not None:
            self._file = Path(path)
            try:  # errors in it are found before anything is transcribed
                self._file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ExportError(f"{path} cannot be written: {error.strerror}.") from error

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *error: object) -> None:
        if self._folder is None and self.form == "json":
            self._put(json.dumps(self._results, indent=2, allow_nan=False))
        if self._file is not None:
            write(self._file, "".join(f"{text}\n" for text in self._texts))

    def add(self, file: str, model: str, transcripts: Mapping[str, Transcript]) -> None:
        if self._folder is not None:
            self._folder.add(file, model, transcripts)
        elif self.form == "json":
            self._results.append(asdict(FileResult.of(file, model, transcripts)))
        else:
            self._put("\n".join(self._headed(file, transcripts)))

    def failed(self, file: str, error: EvoxtralError) -> None:
        self._results.append({"file": file, "error": str(error)})

    def _put(self, text: str) -> None:
        if self._file is None:
            self._say(text)
        else:
            self._texts.append(text)

    def _headed(self, file: str, transcripts: Mapping[str, Transcript]) -> Iterator[str]:
        """The text alone for one variant of one file; otherwise with a heading above each text."""
        for variant, transcript in transcripts.items():
            text = content(transcript, self.form, self.dialect).rstrip("\n")
            yield from (text,) if self._alone else (f"== {file} · {variant} ==", text, "")


def _form_of(path: str | None) -> str:
    """The format for the suffix of an output's name."""
    ending = Path(path).suffix.lower().lstrip(".") if path and not is_folder(path) else ""
    if path and path.lower().endswith(".prompt.txt"):
        return "prompt"
    if ending and ending not in FORMATS:
        raise ExportError(f"{path} does not say what to write: use --format, or one of .txt, .json, .srt, .vtt.")
    return ending or "txt"
