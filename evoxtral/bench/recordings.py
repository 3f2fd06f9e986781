"""Recordings of people that Debian packages bring, with their texts: for measuring only, never for training.

`prompts`: one person, `asterisk-core-sounds-en-g722` and `asterisk-core-sounds-en`. `actors`: 13 actors,
`flight-of-the-amazon-queen`. `sounds`: laughs, coughs and gasps of games, `hedgewars-data`, `scratch` and
`openarena-data`. A set whose package is not installed raises
RecipeError, which names it.
"""

import gzip
import io
import random
import re
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evoxtral import audio
from evoxtral.errors import RecipeError

PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
PROMPT_TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
QUEEN = Path("/usr/share/scummvm/flight-of-the-amazon-queen/queen.1c")
HEDGEWARS = Path("/usr/share/games/hedgewars/Data/Sounds/voices")
SCRATCH = Path("/usr/share/scratch/Media/Sounds/Human")
OPENARENA = Path("/usr/share/games/openarena/baseoa")
SOUNDS = {
    "laugh": "laughs",
    "cough": "clears throat",
    "gasp": "gasps",
}  # part of a file's name: the tag it is nearest to
_HEADER = 20  # bytes before what a dialogue file holds; this and the rest as in ScummVM's engines/queen (talk.cpp)
_TREE = 96  # bytes of a level of its tree


@dataclass(frozen=True)
class Recording:
    """waveform: (T,) float32 at 16 kHz. text: what is said, as its source writes it."""

    id: str
    waveform: np.ndarray
    text: str


def _needs(path: Path, packages: str) -> None:
    if not path.exists():
        raise RecipeError(f"{path} is missing: apt install {packages}.")


def prompts(least: int = 3, seconds: float = 29.0) -> list[Recording]:
    """Prompts of a telephone exchange, of `least` words or more and at most so long, by one woman."""
    _needs(PROMPTS, "asterisk-core-sounds-en-g722")
    _needs(PROMPT_TEXTS, "asterisk-core-sounds-en")
    out = []
    for line in gzip.decompress(PROMPT_TEXTS.read_bytes()).decode().splitlines():
        key, colon, text = line.partition(": ")
        path = PROMPTS / f"{key}.g722"
        if line.startswith(";") or not colon or "[" in text or len(text.split()) < least or not path.exists():
            continue
        waveform = _g722(path.read_bytes())
        if len(waveform) <= seconds * audio.SAMPLE_RATE:
            out.append(Recording(key, waveform, text.strip()))
    return out


def _g722(data: bytes) -> np.ndarray:
    import av

    with av.open(io.BytesIO(data), format="g722") as source:
        frames = [frame.to_ndarray().ravel() for frame in source.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / 32768


def actors(count: int = 500, seed: int = 0, least: int = 3) -> list[Recording]:
    """Lines of a game, `count` drawn from those of its dialogue files that have `least` words or more."""
    _needs(QUEEN, "flight-of-the-amazon-queen")
    with QUEEN.open("rb") as file:
        table = _table(file)
        found = []
        for name in sorted(table):
            if name.endswith(".DOG"):
                found += [(name, key, text) for key, text in _lines(_read(file, table[name])) if f"{key}.SB" in table]
        lines = {key: (key, text) for _, key, text in found if len(text.split()) >= least}
        chosen = random.Random(seed).sample(sorted(lines.values()), min(count, len(lines)))
        return [Recording(key, audio.load(_read(file, table[f"{key}.SB"])), text) for key, text in chosen]


def sounds(seconds: float = 4.0) -> list[Recording]:
    """Recorded laughs, coughs and gasps, at most so long; text: the tag, such as "[laughs]"."""
    _needs(HEDGEWARS, "hedgewars-data")
    _needs(SCRATCH, "scratch")
    _needs(OPENARENA, "openarena-data openarena-081-players")
    files = [path for folder in (HEDGEWARS, SCRATCH) for path in sorted(folder.rglob("*")) if path.is_file()]
    found = [(f"{path.parent.name}-{path.stem}", path.read_bytes()) for path in files if _sound(path.name)]
    for archive in sorted(OPENARENA.glob("*.pk3")):
        with zipfile.ZipFile(archive) as packed:
            names = [name for name in packed.namelist() if name.endswith((".wav", ".ogg")) and _sound(name)]
            found += [(name, packed.read(name)) for name in names]
    out, seen = [], set()
    for name, data in found:
        waveform = audio.load(data)
        if 0.15 * audio.SAMPLE_RATE < len(waveform) <= seconds * audio.SAMPLE_RATE and data not in seen:
            out.append(Recording(name, waveform, f"[{_sound(name)}]"))
        seen.add(data)
    return out


def _sound(name: str) -> str | None:
    """The tag of a file by its name."""
    last = name.rpartition("/")[2].lower()
    return next((tag for part, tag in SOUNDS.items() if part in last), None)


def _table(file) -> dict[str, tuple[int, int]]:
    """Name -> offset and size of the archive's files."""
    if file.read(4) != b"QTBL":
        raise RecipeError(f"{QUEEN} is not the archive that is expected.")
    file.seek(13)
    (count,) = struct.unpack(">H", file.read(2))
    rows = (struct.unpack(">12sBII", file.read(21)) for _ in range(count))
    return {name.split(b"\0")[0].decode(): (offset, size) for name, _, offset, size in rows}


def _read(file, place: tuple[int, int]) -> bytes:
    file.seek(place[0])
    return file.read(place[1])


def _lines(dialogue: bytes) -> Iterator[tuple[str, str]]:
    """The clips of a dialogue file: name and text."""
    data = dialogue[_HEADER:]
    levels, _, key, joe, person = struct.unpack_from(">5h", data)
    (first,) = struct.unpack_from(">H", data, 22)
    for who, offset, count in (("P", first, person), ("J", 32 + abs(levels) * _TREE, joe)):
        for _ in range(count):
            (number,) = struct.unpack_from(">h", data, offset + 2)
            length = data[offset + 4]
            text = data[offset + 5 : offset + 5 + length].decode("cp437")
            offset += 5 + length
            offset += -offset % 4
            prefix = f"{key:2d}{number & 0xFFFF:4x}{who}".replace(" ", "0").upper()
            # Commands such as *03 (a gesture) part the text into segments, each a clip of its own.
            parts = re.split(r"\*(?:XY\d\d\(\d+,\d+\)|\w\w)", text)
            for k, part in enumerate(parts, 1):
                if said := _said(part):
                    yield f"{prefix}{k:x}".upper(), said


def _said(text: str) -> str:
    """A line without what is not spoken in it."""
    return re.sub(r"\s+", " ", re.sub(r"^[A-Z'. ]+:\s", "", text.replace("...", " ").replace("*", " "))).strip()
