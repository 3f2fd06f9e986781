"""Corpora that others published, as folders of this project's: recordings, metadata.jsonl, tags in brackets.

Tags are renamed by the groups of `evoxtral.tags`; what has no counterpart there is kept as written. Layouts as read in
November 2026: NonverbalTTS writes emoji into `Result`, nonverbalspeech38k has one sound a clip with its seconds in
`non_verbal_region`, WESR-Bench has `[points]` and `<spans>…</spans>`, SMIIP-NV a folder for each speaker and emotion.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from evoxtral import foreign_formats, tags
from evoxtral.errors import RecipeError
from training.corpora import hub, reading
from training.corpora.reading import Columns, Row, Source

_SYMBOLS = re.compile("|".join(re.escape(name) for name in tags.VOCABULARY if not name[0].isalpha()))
_IN_BRACKETS = re.compile(r"\[([^\[\]]+)\]")
_MARK = re.compile(r"\] ([.,!?;:…])")
_EVENT = re.compile(r"([^\d\s,;:]+)[\s,;:]+(\d+(?:\.\d+)?)[\s,;:]+(\d+(?:\.\d+)?)")
_REGIONS = "non_verbal_region"


def convert(kind: str, reference: str, folder: Path, emotions: bool = False) -> int:
    """Write a published corpus as a folder of this project's; how many clips it has.

    kind: of KINDS. reference: a folder or a Hub dataset. emotions: each clip begins with its emotion as a tag.
    Raises RecipeError for another layout.
    """
    if (folder / "metadata.jsonl").exists():
        raise RecipeError(f"{folder} already holds a corpus: name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "metadata.partial"
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        for row, emotion in KINDS[kind](reference):
            if emotions and emotion and emotion.lower() not in ("neutral", "unknown", "other", "no agreement"):
                row = replace(row, text=f"[{tags.group(emotion)}] {row.text}")
            name = f"{count:06d}{Path(row.name).suffix or '.wav'}"
            content = row.source.read()
            if isinstance(content, Path):
                shutil.copyfile(content, folder / name)
            else:
                (folder / name).write_bytes(content)
            kept = {key: getattr(row, key) for key in ("split", "speaker", "language") if getattr(row, key)}
            file.write(json.dumps({"file_name": name, "text": row.text} | kept, ensure_ascii=False) + "\n")
            count += 1
    partial.rename(folder / "metadata.jsonl")
    return count


def renamed(text: str) -> str:
    """Tagged text with each tag called as its group; a tag without one is kept as written."""
    text = " ".join(_IN_BRACKETS.sub(lambda tag: f" [{_name(tag[1])}] ", text).split())
    return _MARK.sub(r"]\1", text)


def _name(written: str) -> str:
    name = foreign_formats.group(written)
    return name if name in tags.VOCABULARY else written


def _nonverbal_tts(reference: str) -> Iterator[tuple[Row, str]]:
    for row, values in _with_values(reference, Columns("Result"), ("Emotion",)):
        text = row.text.replace("\ufe0f", "")  # a variation selector behind a symbol
        yield replace(row, text=renamed(_SYMBOLS.sub(r"[\g<0>]", text)), language="en"), values["Emotion"] or ""


def _nonverbal_speech(reference: str) -> Iterator[tuple[Row, str]]:
    for row, values in _with_values(reference, Columns(), (_REGIONS, "label", "duration")):
        text = renamed(row.text)
        if not tags.names(text) and values["label"]:
            text = _placed(text, _name(values["label"]), values[_REGIONS], values["duration"])
        yield replace(row, text=text), ""


def _placed(text: str, name: str, region: list | None, duration: float | None) -> str:
    """A text with its sound before the word that is as far in the text as the sound is in the recording."""
    words = text.split()
    share = region[0] / duration if region and duration else 0.0
    words.insert(round(min(1.0, share) * len(words)), f"[{name}]")
    return " ".join(words)


def _wesr(reference: str) -> Iterator[tuple[Row, str]]:
    for row, _ in _with_values(reference, Columns("sentence"), ()):
        yield replace(row, text=foreign_formats.read(row.text, "wesr"), split=row.split or "test"), ""


def _smiip(reference: str) -> Iterator[tuple[Row, str]]:
    """SPEAKER/EMOTION/annotation.txt: in each line a recording's name, its text, and sounds with begin and end."""
    root = Path(reference) if Path(reference).exists() else hub.fetch_dataset(reference)
    tables = sorted(root.rglob("annotation.txt"))
    if not tables:
        raise RecipeError(f"{reference} has no annotation.txt in folders of speaker and emotion: is it SMIIP-NV?")
    for table in tables:
        for number, line in enumerate(table.read_text(encoding="utf-8-sig").splitlines(), 1):
            if not line.strip():
                continue
            name, *fields = re.split(r"\t|\|", line.strip())
            path = table.parent / (name.strip() if name.strip().endswith(".wav") else f"{name.strip()}.wav")
            where = f"{table.relative_to(root).as_posix()}, line {number}"
            if not fields or not path.is_file():
                raise RecipeError(f"{where}: there is no recording {path.name} with a text behind a tab.")
            text, events = renamed(fields[0]), _EVENT.findall(" ".join(fields[1:]))
            if not tags.names(text):
                text = _with_events(text, events, path)
            speaker = table.parent.parent.name
            yield Row(where, path.name, Source(path), text, speaker=speaker, language="zh"), table.parent.name


def _with_events(text: str, events: list[tuple[str, str, str]], path: Path) -> str:
    """A text without spaces, such as Chinese, with its sounds placed by time."""
    import soundfile

    if not events:
        return text
    duration, parts, last = soundfile.info(path).duration, [], 0
    for name, start, _ in sorted(events, key=lambda event: float(event[1])):
        place = max(last, round(min(1.0, float(start) / duration) * len(text)))
        parts += [text[last:place], f"[{_name(name)}]"]
        last = place
    return " ".join(part.strip() for part in [*parts, text[last:]] if part.strip())


def _with_values(
    reference: str, columns: Columns, wanted: tuple[str, ...]
) -> Iterator[tuple[Row, Mapping[str, object]]]:
    """The rows of a corpus with further columns of theirs, None where they are missing."""
    corpus = reading.read(reference, columns, more=wanted)
    if corpus.findings:
        raise RecipeError(f"{corpus.findings[0]}")
    for row in corpus.rows:
        yield row, dict.fromkeys(wanted) | dict(row.more)


KINDS: Mapping[str, Callable[[str], Iterator[tuple[Row, str]]]] = {
    "nonverbaltts": _nonverbal_tts,
    "nonverbalspeech38k": _nonverbal_speech,
    "wesr-bench": _wesr,
    "smiip-nv": _smiip,
}
