"""Read the transcripts of other systems as tagged text, so that all can be scored against the same references.

| format | how it marks an event | from |
|---|---|---|
| evoxtral | `[laughs]` | this project, ElevenLabs v3 |
| scribe | `(laughter)` | ElevenLabs Scribe with `tag_audio_events` |
| sensevoice | `<|LAUGHTER|>`, `<|HAPPY|>`, before the words | SenseVoice, before its post-processing |
| wesr | `[laughs]` at a point, `<whispering>…</whispering>` around words | WESR-Bench |
| plain | not at all: text in brackets is removed | Whisper and most others |

In each, SRT and WebVTT are read too: their numbers and times are left out. Systems call the same sound by different
names, so in every format but `evoxtral` a tag is named as its group in `tags` is, by `EVENTS` where that has no name
for it; the references are then renamed in the same way (`grouped`).
"""

import re
from collections.abc import Mapping

from evoxtral import tags

FORMATS = ("evoxtral", "scribe", "sensevoice", "wesr", "plain")

# Names that the vocabulary of `tags` does not have -> its group, "" for what is no event.
EVENTS: Mapping[str, str] = {
    # SenseVoice: languages, kinds of sound and switches that say nothing about a voice
    **dict.fromkeys("zh en yue ja ko nospeech auto speech withitn woitn neutral emo_unknown unk event_unk".split(), ""),
    "bgm": "music",
    # WESR-Bench
    "crowd laughter": "laughs",
    "roar": "shouts",
    # Scribe, and captions for deaf people
    "audience laughing": "laughs",
    "all laughing": "laughs",
    "audience applauding": "applause",
    "speaking softly": "softly",
    "speaking loudly": "shouts",
    "no audio": "",
    "inaudible": "",
    "unintelligible": "",
    "blank audio": "",
}

_NUMBER = re.compile(r"\d+\s*")
_MARKS = {
    "scribe": re.compile(r"[(\[]([^()\[\]]+)[)\]]"),
    "sensevoice": re.compile(r"<\|([^|<>]+)\|>"),
    "wesr": re.compile(r"\[([^\[\]]+)\]|<([^<>/]+)>"),
    "plain": re.compile(r"\[[^\[\]]*\]|\([^()]*\)|<[^<>]*>|[♪♫]"),
}
_CLOSING = re.compile(r"</[^<>]+>")


def read(text: str, written_as: str) -> str:
    """A transcript in one of FORMATS as tagged text. Raises KeyError for another."""
    text = _without_cues(text)
    if written_as == "evoxtral":
        return text
    marks = _MARKS[written_as]
    if written_as == "plain":
        return " ".join(marks.sub(" ", text).split())

    def tag(mark: re.Match) -> str:
        name = group(next(name for name in mark.groups() if name))
        return f" [{name}] " if name else " "

    if written_as == "wesr":  # the end of a stretch is the end of its sentence, as for our own tags
        text = _CLOSING.sub(" ", text)
    return " ".join(marks.sub(tag, text).split())


def group(event: str) -> str:
    """The name that all names of a sound share (`LAUGHTER` → `laughs`); "" for what is no event."""
    written = event.strip().lower()
    name = written.replace("_", " ")
    return EVENTS.get(written, EVENTS.get(name, tags.group(name)))


def grouped(text: str) -> str:
    """Tagged text with every tag called as its group is."""
    pieces = tags.parse(text)
    return "".join(f"[{tags.group(p.name)}]" if isinstance(p, tags.Tag) and p.name else p.raw for p in pieces)


def pair(prediction: str, reference: str, written_as: str, reference_as: str = "evoxtral") -> tuple[str, str]:
    """A pair to score, from a prediction and a reference as they are written."""
    prediction, reference = read(prediction, written_as), read(reference, reference_as)
    same = written_as == reference_as == "evoxtral"
    return (prediction, reference) if same else (grouped(prediction), grouped(reference))


def _without_cues(text: str) -> str:
    """Text of an SRT or WebVTT file without numbers and times; any other text as it is."""
    if " --> " not in text:
        return text
    kept: list[str] = []
    for line in text.splitlines():
        if " --> " in line:
            if kept and _NUMBER.fullmatch(kept[-1]):
                kept.pop()
        elif line.strip() and not line.startswith(("WEBVTT", "NOTE")):
            kept.append(line.strip())
    return " ".join(kept)
