"""Where `bulk` keeps its results: one file of JSON lines, a folder of shards, or a file for each recording.

Each result is a `FileResult` under an id. One process writes; whatever kills it, a result is there whole or not at all,
and running the same command again does what is missing and writes nothing twice.
"""

import io
import json
import time
import types
import typing
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from evoxtral.errors import EvoxtralError
from evoxtral.exports import Folder
from evoxtral.inference.inputs import ID, Entry, reached
from evoxtral.results import FileResult
from evoxtral.transcript import Transcript, VariantResult

if TYPE_CHECKING:
    import pyarrow

KINDS = ("jsonl", "parquet")  # of shards
SHARD_ROWS = 1_000
SHARD_SECONDS = 60.0  # a result waits at most so long for its shard, if another follows it
_NOT_OURS = "holds something else than results of a bulk run: name a new one."


class BulkError(EvoxtralError):
    """Results that cannot be written, or not be gone on with."""


def line(entry: Entry, model: str, transcripts: Mapping[str, Transcript]) -> dict[str, Any]:
    """A result as JSON has it; `id` where it is not the file's name."""
    result = asdict(FileResult.of(entry.file, model, transcripts))
    return result if entry.id == entry.file else result | {ID: entry.id}


class ResultsFile:
    """A results file, written a whole line at a time.  done: the ids that are already in it."""

    def __init__(self, path: Path, model: str, variants: Sequence[str]):
        """Open a new file, or continue one of the same model and variants. Raises BulkError."""
        self.path = path
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise BulkError(f"{path} cannot be written: {error.strerror}.") from error
        try:
            self._lock()
            written = path.read_bytes()
            lines, unfinished = _lines(written)
            if unfinished and not _begins_a_result(unfinished):
                raise BulkError(f"{path} {_NOT_OURS}")
            self.done = frozenset(_ids(lines, str(path), model, variants))
            self._file.truncate(len(written) - len(unfinished))
        except BulkError:
            self._file.close()
            raise

    def _lock(self) -> None:
        """Keep a second run away, where the system and the disk have locks; the lock ends with the process."""
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BulkError(f"Another run writes to {self.path}: wait for it, or name another file.") from error
            except OSError:  # a network disk without locks
                pass

    def add(self, entry: Entry, model: str, transcripts: Mapping[str, Transcript]) -> None:
        try:
            self._file.write(_encoded(line(entry, model, transcripts)))
            self._file.flush()
        except OSError as error:
            raise BulkError(f"{self.path} cannot be written: {error.strerror}.") from error

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


class FilePerRecording:
    """A folder with a file for each recording and variant.  done: the ids whose files all exist."""

    def __init__(self, folder: str, form: str, entries: Iterable[Entry], variants: Sequence[str]):
        self._folder = Folder(folder, form, {entry.id: entry.place for entry in entries}, variants)
        self.done = self._folder.done

    def add(self, entry: Entry, model: str, transcripts: Mapping[str, Transcript]) -> None:
        self._folder.add(entry.file, model, transcripts, entry.id)


def _encoded(result: Mapping[str, Any]) -> bytes:
    return json.dumps(result, allow_nan=False).encode() + b"\n"


def _lines(written: bytes) -> tuple[list[bytes], bytes]:
    """The complete lines, and the incomplete last line that an interrupted run may have left."""
    *lines, unfinished = written.split(b"\n")
    return lines, unfinished


def _begins_a_result(unfinished: bytes) -> bool:
    head = b'{"file": "'
    return unfinished[: len(head)] == head[: len(unfinished)]


def _ids(lines: Iterable[bytes], name: str, model: str, variants: Sequence[str]) -> Iterable[str]:
    """The ids of results, which must be of this model and these variants. Raises BulkError."""
    for number, one in enumerate(lines, 1):
        try:
            match json.loads(one):
                case {"file": str(file), "model": str(made), "variants": dict(variants_of_line)} as result:
                    pass
                case _:
                    raise ValueError
        except (ValueError, RecursionError) as error:
            raise BulkError(f"{name}, line {number} is no result of a bulk run: name a new file.") from error
        _check_same(f"{name}, line {number}", made, variants_of_line, model, variants)
        yield result.get(ID, file)


def _check_same(where: str, made: str, variants_there: Iterable[str], model: str, variants: Sequence[str]) -> None:
    if (made, sorted(variants_there)) != (model, sorted(variants)):
        raise BulkError(
            f"{where} was written by {', '.join(variants_there)} of {made} and not by "
            f"{', '.join(variants)} of {model}: name a new file."
        )


# ------------------------------------------------------------------------------------------------- shards


class Shards:
    """A folder, or the address of one, with files of up to SHARD_ROWS results each.  done: the ids that are there.

    A shard is written at once and never changed. A run that is killed does again what was in none, SHARD_SECONDS of
    work or so.
    """

    def __init__(self, folder: str, kind: str, model: str, variants: Sequence[str]):
        """kind: one of KINDS. Raises BulkError for a folder that holds other shards."""
        self.folder, self.kind, self.variants = folder, kind, variants
        self._waiting: list[dict[str, Any]] = []
        if kind == "parquet":
            _pyarrow()
        with reached(folder, BulkError) as (self._store, self._path):
            self._local = "file" in _protocols(self._store)
            names = sorted(self._store.find(self._path)) if self._store.exists(self._path) else []
            shards = [name for name in names if PurePosixPath(name).name.startswith("part-")]
            others = [name for name in shards if not name.endswith(f".{kind}")]
            if others:
                raise BulkError(f"{others[0]} is no {kind}: name a new folder.")
            self.done = frozenset(one for shard in shards for one in self._ids(shard, model))
            self._next = len(shards) + 1

    def _ids(self, shard: str, model: str) -> list[str]:
        data = self._store.cat_file(shard)
        if self.kind == "jsonl":
            lines, unfinished = _lines(data)
            if unfinished:
                raise BulkError(f"{shard} {_NOT_OURS}")
            return [*_ids(lines, shard, model, self.variants)]
        arrow = _pyarrow()
        try:
            table = arrow.parquet.read_table(io.BytesIO(data))
            made, there = table["model"][0].as_py(), [field.name for field in table.schema.field("variants").type]
            ids = table[ID].to_pylist()
        except (arrow.ArrowException, KeyError, IndexError, TypeError) as error:
            raise BulkError(f"{shard} {_NOT_OURS}") from error
        _check_same(shard, made, there, model, self.variants)
        return ids

    def add(self, entry: Entry, model: str, transcripts: Mapping[str, Transcript]) -> None:
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(line(entry, model, transcripts) | {ID: entry.id})
        if len(self._waiting) >= SHARD_ROWS or time.monotonic() - self._since > SHARD_SECONDS:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        data = b"".join(map(_encoded, self._waiting)) if self.kind == "jsonl" else self._parquet()
        # Of two runs that write to one address, none replaces a shard of the other.
        name = f"part-{self._next:05d}-{uuid.uuid4().hex[:8]}.{self.kind}"
        with reached(self.folder, BulkError):
            self._store.makedirs(self._path, exist_ok=True)
            if self._local:  # a disk shows files that are half written, a store of objects does not
                part = f"{self._path}/.{name}.part"
                self._store.pipe_file(part, data)
                self._store.mv(part, f"{self._path}/{name}")
            else:
                self._store.pipe_file(f"{self._path}/{name}", data)
        self._waiting = []
        self._next += 1

    def _parquet(self) -> bytes:
        arrow = _pyarrow()
        table = arrow.Table.from_pylist(self._waiting, schema=schema(self.variants))
        sink = io.BytesIO()
        arrow.parquet.write_table(table, sink)
        return sink.getvalue()

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, *error: object) -> None:
        self._write()


def schema(variants: Sequence[str]) -> "pyarrow.Schema":
    """The columns of a Parquet shard: those of FileResult, and the id. Stated, as pyarrow's guess from rows takes an
    empty list for another type than one with tags, and then no two shards fit."""
    arrow = _pyarrow()
    hints = typing.get_type_hints(FileResult)
    hints.pop("variants")
    of_variants = arrow.struct([(name, _arrow(VariantResult)) for name in variants])
    known = {name: _arrow(hint) for name, hint in hints.items()}
    return arrow.schema({ID: arrow.string(), **known, "variants": of_variants})


def _arrow(hint: Any) -> "pyarrow.DataType":
    """The type of a column for the type of a field."""
    arrow = _pyarrow()
    if is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return arrow.struct([(field.name, _arrow(hints[field.name])) for field in fields(hint)])
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return arrow.list_(_arrow(inner[0]))
    if origin is typing.Literal:
        return arrow.string()
    if origin in (types.UnionType, typing.Union):
        (hint,) = (one for one in inner if one is not type(None))
        return _arrow(hint)
    return {str: arrow.string(), float: arrow.float64(), int: arrow.int64(), bool: arrow.bool_()}[hint]


def _pyarrow() -> types.ModuleType:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BulkError("Parquet needs pyarrow: pip install 'evoxtral[bulk]'.") from error
    return pyarrow


def _protocols(store: Any) -> tuple[str, ...]:
    return (store.protocol,) if isinstance(store.protocol, str) else tuple(store.protocol)
