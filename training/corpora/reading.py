"""A corpus as rows: a folder as `datasets` reads it (audiofolder), Parquet files with audio in them, or a Hub dataset.

The files are read here and not by `datasets`, which needs torchcodec to build an audiofolder, leaves out files (and the
metadata itself) whose names hold the word "train" or "test", reads the words "null" and "NA" of a CSV as nothing, and
drops what it does not find without a word.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from unicodedata import normalize

from evoxtral.errors import RecipeError
from training.corpora import hub

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
AUDIO = frozenset(
    ".wav .flac .mp3 .ogg .oga .opus .m4a .mp4 .aac .webm .mka .mkv .mov .aif .aiff .au .caf .wma .amr .wv".split()
)
_SPLIT = re.compile(rf"(?:^|[/_.-])({'|'.join(SPLITS)})(?=$|[/_.-])", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """What the columns of a corpus are called; "" is their usual name."""

    text: str = ""
    audio: str = ""
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where the bytes of a recording are: a file, or a row of a Parquet file's row group."""

    path: Path
    column: str = ""
    group: int = 0
    row: int = 0

    def read(self) -> Path | bytes:
        """What `evoxtral.audio.read` takes."""
        if not self.column:
            return self.path
        cell = _audio_cells(self.path, self.column, self.group)[self.row]
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        return content or b""


@lru_cache(maxsize=1)
def _audio_cells(path: Path, column: str, group: int) -> list:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(0).to_pylist()


@dataclass(frozen=True)
class Row:
    """A clip as its corpus has it; the recording has not been read.

    where: file and line, for messages. name: of the recording. start, end: s in it; None: from its begin, to its end.
    split: "" where the corpus has none. speaker, language: "" where unknown.
    """

    where: str
    name: str
    source: Source
    text: str
    split: str = ""
    speaker: str = ""
    language: str = ""
    start: float | None = None
    end: float | None = None
    more: tuple[tuple[str, object], ...] = ()  # further columns that were asked for


@dataclass(frozen=True)
class Finding:
    """Something about a corpus that a person should know. fatal: training on it would be wrong."""

    where: str
    sentence: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}"


@dataclass(frozen=True)
class Corpus:
    """The rows of a corpus, and what was found wrong with lines that are no rows. folder: where its files lie."""

    name: str
    folder: Path
    rows: list[Row]
    findings: list[Finding] = field(default_factory=list)


def read(reference: str, columns: Columns | None = None, subset: str = "", more: tuple[str, ...] = ()) -> Corpus:
    """The corpus in a folder, a Parquet file or a Hub dataset (`owner/name`, `owner/name@revision`).

    subset: a folder inside it. more: further columns to keep. Raises RecipeError where there is no corpus, in a
    sentence that says what to do.
    """
    columns = replace(columns or Columns(), more=more)
    place = Path(reference).expanduser()
    root = place if place.exists() else hub.fetch_dataset(reference)
    folder = root / subset if subset else root
    if not folder.exists():
        raise RecipeError(f"{reference} has no {subset}: name a folder inside it, or none.")
    tables, parquet = _files(folder)
    found = Corpus(reference, folder if folder.is_dir() else folder.parent, [])
    for table in tables:
        _add(found, _rows_of_table(table, found.folder, columns))
    for path in () if tables else parquet:
        _add(found, _rows_of_parquet(path, found.folder, columns))
    if not tables and not parquet:
        raise RecipeError(_nothing_there(reference, folder))
    if not found.rows and not found.findings:
        raise RecipeError(f"{reference} has no clips: its {(*tables, *parquet)[0].name} has no lines.")
    return found


def _add(corpus: Corpus, rows: Iterator[Row | Finding]) -> None:
    for row in rows:
        (corpus.rows if isinstance(row, Row) else corpus.findings).append(row)


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The metadata files under a folder, and the other Parquet files."""
    if folder.is_file():
        if folder.suffix == ".parquet":
            return [], [folder]
        if folder.name in TABLES:
            return [folder], []
        raise RecipeError(f"{folder} is one file: give the folder that holds metadata.jsonl and the recordings.")
    tables = sorted(path for path in folder.rglob("metadata.*") if path.name in TABLES)
    for one, other in zip(tables, tables[1:], strict=False):
        if one.parent == other.parent:
            raise RecipeError(f"{one.parent} has {one.name} and {other.name}: keep one of them.")
    parquet = sorted(path for path in folder.rglob("*.parquet") if path.name not in TABLES)
    return tables, parquet


def _nothing_there(reference: str, folder: Path) -> str:
    recordings = sum(path.suffix.lower() in AUDIO for path in folder.rglob("*"))
    others = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".jsonl", ".json", ".tsv")]
    hint = f"; {others[0]} would be read if it were called metadata.csv or metadata.jsonl" if others else ""
    return (
        f"{reference} has {recordings} recordings and no metadata.jsonl, metadata.csv or Parquet file{hint}: "
        'write metadata.jsonl with a line {"file_name": "a.wav", "text": "[sighs] Hello."} for each recording.'
    )


# --- tables beside recordings ------------------------------------------------------------------------------


def _rows_of_table(table: Path, root: Path, columns: Columns) -> Iterator[Row | Finding]:
    split = _split_of(table.parent.relative_to(root))
    named = table.relative_to(root).as_posix()
    lines = {".jsonl": _lines_of_jsonl, ".csv": _lines_of_csv, ".parquet": _lines_of_parquet}[table.suffix]
    checked = False
    for number, values in lines(table):
        where = f"{named}, line {number}" if table.suffix != ".parquet" else f"{named}, row {number}"
        if isinstance(values, str):
            yield Finding(where, values)
            continue
        if not checked:
            audio, text = _column_names(named, values, columns, "file_name")
            checked = True
        name = values.get(audio)
        if not isinstance(name, str) or not name.strip():
            yield Finding(where, f"has no {audio}: name its recording, or remove the line.")
            continue
        source = Source(table.parent / name.strip())
        if not source.path.is_file():
            yield Finding(where, _missing(source.path, name))
            continue
        yield from _row(where, name.strip(), source, values.get(text), values, split, columns.more)


def _lines_of_jsonl(table: Path) -> Iterator[tuple[int, Mapping | str]]:
    for number, line in enumerate(_text(table).splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, f"is not JSON ({error.msg} at character {error.pos + 1}): write one object in one line."
            continue
        yield number, values if isinstance(values, dict) else "is no JSON object: write {…} with file_name and text."


def _lines_of_csv(table: Path) -> Iterator[tuple[int, Mapping | str]]:
    lines = _text(table).splitlines(keepends=True)
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)  # spreadsheets of many countries write semicolons
    reader = csv.DictReader(lines, delimiter=delimiter)
    for values in reader:
        if None in values or None in values.values():
            count = len(values) - (None in values)
            yield reader.line_num, f'has not the {count} values of the first line: put text with commas in "…".'
        else:
            yield reader.line_num, {key.strip(): value for key, value in values.items()}


def _lines_of_parquet(table: Path) -> Iterator[tuple[int, Mapping]]:
    for number, (_, _, values) in enumerate(_parquet_values(table, ()), 1):
        yield number, values


def _text(table: Path) -> str:
    try:
        return table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{table} is not UTF-8 (byte {error.start + 1}): save it as UTF-8.") from None


def _column_names(named: str, values: Mapping, columns: Columns, usual: str) -> tuple[str, str]:
    """The columns of the recording and of the text. Raises RecipeError if one is not there."""
    audio, text = columns.audio or usual, columns.text or "text"
    for name, option in ((audio, "--audio-column"), (text, "--text-column")):
        if name not in values:
            there = ", ".join(map(str, values))
            raise RecipeError(
                f"{named} has no column {name!r}, but {there}: rename a column, or say which it is with {option}."
            )
    return audio, text


def _missing(path: Path, name: str) -> str:
    """What to say of a recording that is not there: often it is there under another ending, or another case."""
    near = []
    if path.parent.is_dir():
        near = sorted(p.name for p in path.parent.iterdir() if p.stem.lower() == path.stem.lower() and p.is_file())
    if near:
        return f"there is no {name}, but {near[0]}: write that name; WAV, MP3, M4A, MP4 and others are read alike."
    return f"there is no {name}: copy it to {path.parent}, or remove the line."


# --- Parquet with audio in it --------------------------------------------------------------------------------


def _rows_of_parquet(path: Path, root: Path, columns: Columns) -> Iterator[Row | Finding]:
    named = path.relative_to(root).as_posix()
    column, split, checked = columns.audio or "audio", _split_of(path.relative_to(root)), False
    for number, (group, row, values) in enumerate(_parquet_values(path, (column,)), 1):
        if not checked:
            audio, text = _column_names(named, values, columns, "audio")
            checked = True
        where, cell = f"{named}, row {number}", values[audio]
        if not cell["embedded"]:
            if not cell["path"] or not (path.parent / cell["path"]).is_file():
                yield Finding(where, f"has no audio, only the path {cell['path']!r}: embed the bytes, or add the file.")
                continue
            source = Source(path.parent / cell["path"])
        else:
            source = Source(path, audio, group, row)
        name = cell["path"] or f"{path.stem}-{number}"
        yield from _row(where, Path(name).name, source, values.get(text), values, split, columns.more)


def _parquet_values(path: Path, audio: tuple[str, ...]) -> Iterator[tuple[int, int, dict]]:
    """Row group, row in it, and values; of an audio column only whether its bytes are there, and the path."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                cells = {}
                for name in audio:
                    if name in table.column_names:
                        cells[name] = [_about(cell) for cell in table.column(name).to_pylist()]
                        table = table.drop_columns([name])
                for row, values in enumerate(table.to_pylist()):
                    yield group, row, values | {name: found[row] for name, found in cells.items()}
    except pyarrow.ArrowInvalid as error:
        raise RecipeError(f"{path} is no Parquet file ({error}): download it again.") from None


def _about(cell) -> dict:
    if isinstance(cell, dict):
        return {"embedded": bool(cell.get("bytes")), "path": cell.get("path") or ""}
    if isinstance(cell, str):
        return {"embedded": False, "path": cell}
    return {"embedded": bool(cell), "path": ""}


# --- a row ---------------------------------------------------------------------------------------------------


def _row(
    where: str, name: str, source: Source, text, values: Mapping, split: str, more: tuple[str, ...]
) -> Iterator[Row | Finding]:
    if not isinstance(text, str):
        yield Finding(where, "has no text: write what is said, with its tags.")
        return
    row = Row(where, name, source, " ".join(normalize("NFC", text).split()))
    row = replace(row, **{key: str(values.get(key) or "").strip() for key in ("speaker", "language")})
    if not row.speaker and values.get("speaker_id") is not None:
        row = replace(row, speaker=str(values["speaker_id"]))
    asked = str(values.get("split") or "").strip() or split
    if asked and asked.lower() not in SPLITS:
        yield Finding(where, f"is of the split {asked!r}: write train, validation or test.")
        return
    times = {}
    for key in ("start", "end"):
        given = values.get(key)
        if given is None or given == "":
            continue
        try:
            times[key] = float(given)
        except (TypeError, ValueError):
            yield Finding(where, f"has {key} = {given!r}: write seconds, such as 12.5.")
            return
    start = times.get("start", 0.0)
    if not 0 <= start < times.get("end", float("inf")):  # NaN is in no order
        yield Finding(where, f"starts at {start:g} s and ends at {times.get('end', 0):g} s: write the later one last.")
        return
    kept = tuple((key, values[key]) for key in more if key in values)
    yield replace(row, split=SPLITS.get(asked.lower(), ""), more=kept, **times)


def _split_of(path: Path) -> str:
    """The split that a folder or a Parquet file is named after; recordings are never asked for it."""
    found = _SPLIT.findall(path.as_posix())
    return SPLITS[found[0].lower()] if found else ""


def unlisted(corpus: Corpus) -> list[str]:
    """Recordings that lie in the corpus's folder and that no row names."""
    listed = {row.source.path for row in corpus.rows}
    if any(row.source.column for row in corpus.rows):
        return []
    files = chain.from_iterable(corpus.folder.rglob(f"*{ending}") for ending in sorted(AUDIO))
    return sorted(str(path.relative_to(corpus.folder)) for path in files if path not in listed)
