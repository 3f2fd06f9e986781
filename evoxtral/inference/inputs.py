"""What `bulk` is given: recordings, folders of them and manifests, on this machine or where fsspec reaches (`s3://`,
`gs://`, `hf://` …).

A manifest is JSON lines, CSV or Parquet. Each row names a recording in one of COLUMNS, relative to the manifest or as
an address, and may have an `id`, which then names its result. Only names are read here: a recording is read when its
turn comes, by who transcribes it, so that one that cannot be read fails alone.
"""

import csv
import io
import json
import posixpath
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from evoxtral import audio
from evoxtral.errors import AudioError, EvoxtralError, reason
from evoxtral.exports import STDIN

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MANIFESTS = (".jsonl", ".csv", ".parquet")
COLUMNS = ("audio", "file", "file_name", "audio_filepath", "path", "url")  # the first that there is
ID = "id"
MAX_FETCHED = 1e9  # bytes of a recording at an address: all of it is held in memory


class InputError(EvoxtralError):
    """Nothing to transcribe, a manifest that cannot be used, or an address that cannot be reached."""


@dataclass(frozen=True)
class Entry:
    """One recording to transcribe.

    id: names its result, each once: that of a manifest, else `file`.  file: a path, an address, or STDIN.
    place: where a file of its result stands in an output folder.
    """

    id: str
    file: str
    place: Path


def listed(paths: Iterable[str | Path]) -> dict[str, Entry]:
    """The recordings in some paths and addresses by id: files as given, folders recursively, manifests row by row.

    Raises InputError for a folder without recordings, a manifest that cannot be used, and for an id with two files.
    """
    found: dict[str, Entry] = {}
    for path in map(str, paths):
        if path == STDIN:
            entries: Iterable[Entry] = (Entry(path, path, Path("stdin.wav")),)
        elif Path(path).suffix.lower() in MANIFESTS:
            entries = _rows(path)
        else:
            entries = _in_store(path) if is_address(path) else _in_folder(Path(path))
        for entry in entries:
            known = found.setdefault(entry.id, entry)
            if known.file != entry.file:
                raise InputError(f"{known.file} and {entry.file} have the same id, {entry.id!r}: give each its own.")
    return found


def is_address(name: str) -> bool:
    """Whether a name is for fsspec: `s3://bucket/a.wav`."""
    return "://" in name and not Path(name).exists()


def source(file: str) -> audio.Source:
    """What the name of a recording stands for: a path, or the bytes of an address or a pipe (`-` is standard input).

    Raises AudioError where it cannot be reached, for a terminal, for a pipe of more than MAX_MEGABYTES and for an
    address of more than MAX_FETCHED.
    """
    if is_address(file):
        return _fetched(file)
    path = Path(file)
    if file != STDIN and not path.is_fifo():
        return path
    if file == STDIN and sys.stdin.isatty():
        raise AudioError("Nothing is piped in: give a file, or pipe a recording to standard input.")
    limit = int(audio.MAX_MEGABYTES * 1e6)
    try:
        if file == STDIN:
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as pipe:
                data = pipe.read(limit + 1)
    except OSError as error:
        raise AudioError(f"{file} cannot be read: {error.strerror}.") from error
    if len(data) > limit:
        raise AudioError(f"More than {audio.MAX_MEGABYTES:g} MB were piped in: give a longer recording as a file.")
    return data


# ------------------------------------------------------------------------------------------------- folders


def _in_folder(path: Path) -> Iterator[Entry]:
    if not path.is_dir():
        yield Entry(str(path), str(path), Path(path.name))
        return
    inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in audio.SUFFIXES and _is_recording(file))
    _check_some(inside, str(path))
    for file in inside:
        yield Entry(str(file), str(file), file.relative_to(path))


def _is_recording(file: Path) -> bool:
    """Whether it is a file, or a link to none: that one is tried, and named as what cannot be read."""
    return file.is_file() or (file.is_symlink() and not file.exists())


def _in_store(url: str) -> Iterator[Entry]:
    with reached(url, InputError) as (store, path):
        # A store of objects has no folders: what begins with the name and a slash is in it.
        inside = [] if store.isfile(path) else sorted(store.find(path))
    if not inside:
        yield Entry(url, url, Path(PurePosixPath(path).name))
        return
    inside = [file for file in inside if PurePosixPath(file).suffix.lower() in audio.SUFFIXES]
    _check_some(inside, url)
    for file in inside:
        address = store.unstrip_protocol(file)
        yield Entry(address, address, Path(file.removeprefix(path.rstrip("/")).lstrip("/")))


def _check_some(inside: list, folder: str) -> None:
    if not inside:
        raise InputError(f"There are no recordings in the folder {folder}: no file ends in .wav, .mp3 or the like.")


# ------------------------------------------------------------------------------------------------- addresses


@contextmanager
def reached(url: str, kind: type[EvoxtralError]) -> Iterator[tuple["AbstractFileSystem", str]]:
    """The file system of an address or path, and the path in it. What fails inside becomes one sentence, a `kind`."""
    from fsspec.core import url_to_fs

    try:
        yield url_to_fs(url)
    except EvoxtralError:
        raise
    except FileNotFoundError as error:
        raise kind(f"There is nothing at {url}: check the name.") from error
    except ImportError as error:
        raise kind(f"{url} cannot be read: {str(error).rstrip('.')}.") from error
    except Exception as error:  # every store raises errors of its own, and they have no common base
        raise kind(f"{url} cannot be read ({reason(error)}).") from error


def _fetched(url: str) -> bytes:
    with reached(url, AudioError) as (store, path):
        size = store.size(path)
        if size is not None and size > MAX_FETCHED:
            raise AudioError(f"{url} has {size / 1e9:.1f} GB: divide it into files of {MAX_FETCHED / 1e9:g} GB.")
        return store.cat_file(path)


# ------------------------------------------------------------------------------------------------- manifests


def _rows(manifest: str) -> Iterator[Entry]:
    """Raises InputError, which names the row."""
    suffix = Path(manifest).suffix.lower()
    with reached(manifest, InputError) as (store, path):
        if suffix == ".parquet":
            with store.open(path, "rb") as file:
                numbered = [*_parquet(file, manifest)]
        else:
            text = store.cat_file(path).decode("utf-8-sig")
            numbered = [*(_json_lines if suffix == ".jsonl" else _csv)(text, manifest)]
    if not numbered:
        raise InputError(f"{manifest} names no recording: it has no rows.")
    folder = manifest.rpartition("/")[0]
    for number, row in numbered:
        where = f"{manifest}, row {number}"
        column = next((column for column in COLUMNS if column in row), None)
        name = row[column] if column else None
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: no recording is named; its column is one of {', '.join(COLUMNS)}.")
        own = "://" in name or Path(name).is_absolute() or not folder
        file = name if own else _beside(folder, name)
        if ID in row and (not isinstance(row[ID], str | int) or row[ID] == ""):
            raise InputError(f"{where}: its id is neither text nor a number.")
        inner = PurePosixPath(name)
        place = inner.name if own or ".." in inner.parts else inner
        yield Entry(str(row.get(ID, file)), file, Path(place))


def _beside(folder: str, name: str) -> str:
    """A name relative to a folder. A store of objects knows no `..`."""
    scheme, mark, rest = folder.rpartition("://")
    return f"{scheme}{mark}{posixpath.normpath(f'{rest}/{name}')}" if mark else f"{folder}/{name}"


def _json_lines(text: str, manifest: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(
                f'{manifest}, row {number} is no JSON object: write {{"audio": "a.wav"}} for each recording.'
            )
        yield number, row


def _csv(text: str, manifest: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        yield from enumerate(csv.DictReader(io.StringIO(text, newline="")), 2)  # the first row has the names
    except csv.Error as error:
        raise InputError(f"{manifest} is no CSV ({error}).") from error


def _parquet(file: io.IOBase, manifest: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{manifest} needs pyarrow: pip install 'evoxtral[bulk]'.") from error
    try:
        table = pyarrow.parquet.ParquetFile(file)
        wanted = [name for name in (*COLUMNS, ID) if name in table.schema_arrow.names]
        for column in wanted:
            if pyarrow.types.is_struct(table.schema_arrow.field(column).type):
                raise InputError(
                    f"{manifest} holds recordings themselves in {column}: write them to files and name those."
                )
        rows = (row for batch in table.iter_batches(columns=wanted) for row in batch.to_pylist())
        yield from enumerate(rows, 1)
    except pyarrow.ArrowException as error:
        raise InputError(f"{manifest} is no Parquet ({reason(error)}).") from error
