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

`write` goes the other way, to text as text-to-speech systems want it:

| dialect | a tag | stress |
|---|---|---|
| elevenlabs | `[excited]`, as here | capitals, as here |
| mistral | `[emotion=happy][pace=fast]`, Mistral's speech API | capitals |
| plain | none | none |
| ssml | `<break/>`, `<prosody>` up to the end of the sentence | `<emphasis>` |

SSML is that of https://www.w3.org/TR/speech-synthesis11/. One table, COUNTERPARTS, says what each group of tags
becomes; what it does not have is left out, and named.
"""

import html
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

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


# ------------------------------------------------------------------------------------------------- writing

DIALECTS = ("elevenlabs", "mistral", "plain", "ssml")


@dataclass(frozen=True)
class Written:
    """Text in a dialect; lost: the tags that have no counterpart there, as written, each once."""

    text: str
    lost: tuple[str, ...]


# Group of tags -> what it is in Mistral's dialect, and the attributes of <prosody> in SSML; "" for no counterpart.
COUNTERPARTS: Mapping[str, tuple[str, str]] = {
    "happy": ("[emotion=happy]", ""),
    "excited": ("[emotion=happy][pace=fast]", 'rate="fast" pitch="high"'),
    "sad": ("[emotion=sad]", 'rate="slow" pitch="low"'),
    "angry": ("[emotion=angry]", 'volume="loud"'),
    "frustrated": ("[emotion=angry]", ""),
    "calm": ("[pace=slow]", 'rate="slow"'),
    "slowly": ("[pace=slow]", 'rate="slow"'),
    "drawn out": ("[pace=slow]", 'rate="x-slow"'),
    "rushed": ("[pace=fast]", 'rate="fast"'),
    "shouts": ("", 'volume="x-loud"'),
    "softly": ("", 'volume="soft"'),
    "pause": ("", "<break/>"),
}
_BREAK = "<break/>"
_LEFT_OUT = "\0"  # stands where a tag was
# Elements of SSML 1.1 and the one of Amazon's and Google's that scripts often have; `<3` or `a < b` is text.
_ELEMENTS = "speak|break|prosody|emphasis|say-as|phoneme|sub|audio|voice|lang|p|s|w|token|mark|desc|lexicon|lookup|meta"
_MARKUP = re.compile(rf"<\s*/?\s*(?:{_ELEMENTS}|amazon:\w+|google:\w+|mstts:[\w-]+)\b[^<>]*>", re.IGNORECASE)
_IS_BREAK = re.compile(r"<\s*break\b", re.IGNORECASE)


def write(text: str, dialect: str) -> Written:
    """Tagged text in one of DIALECTS. Raises KeyError for another."""
    writer = {"elevenlabs": _elevenlabs, "mistral": _mistral, "plain": _plain, "ssml": _ssml}[dialect]
    return writer(text)


def _elevenlabs(text: str) -> Written:
    return Written(text, ())


def _plain(text: str) -> Written:
    return _replaced(tags.unstressed, text, {})


def _mistral(text: str) -> Written:
    return _replaced(str, text, {name: counterpart for name, (counterpart, _) in COUNTERPARTS.items()})


def _replaced(spoken: Callable[[str], str], text: str, counterparts: Mapping[str, str]) -> Written:
    kept, lost = [], []
    for piece in tags.parse(text):
        if isinstance(piece, tags.Text):
            kept.append(spoken(piece.raw))
        elif counterpart := counterparts.get(tags.group(piece.name), ""):
            kept.append(counterpart)
        else:
            lost.append(piece.raw)
            kept.append(_LEFT_OUT)
    return Written(_joined(kept), _each_once(lost))


def _ssml(text: str) -> Written:
    kept, lost = ["<speak>"], []
    opened = False

    def close() -> None:
        nonlocal opened
        if opened:
            space = kept.pop() if kept[-1].isspace() else ""
            kept.extend(("</prosody>", space))
        opened = False

    for piece in tags.parse(text):
        if isinstance(piece, tags.Tag):
            _, counterpart = COUNTERPARTS.get(tags.group(piece.name), ("", ""))
            if counterpart == _BREAK:
                kept.append(_BREAK)
            elif counterpart:
                close()
                kept.append(f"<prosody {counterpart}>")
                opened = True
            else:
                lost.append(piece.raw)
                kept.append(_LEFT_OUT)
            continue
        for part in re.split(r"(\s+)", piece.raw):
            kept.append(_stressed(part))
            if tags.ends_sentence(part):
                close()
    close()
    return Written(_joined([*kept, "</speak>"]), _each_once(lost))


def _stressed(word: str) -> str:
    escaped = html.escape(word, quote=False)
    return tags.EMPHASIS.sub(lambda found: f"<emphasis>{found.group().lower()}</emphasis>", escaped)


def _joined(pieces: Iterable[str]) -> str:
    """Pieces as one text; where a tag was left out, one space at most stays, and none at the ends or before
    punctuation."""
    text = re.sub(r"\s*\0\s*(?=[,.;:!?…)]|\0|</|$)", "", "".join(pieces))
    text = re.sub(r"(^|<(?:speak|prosody)[^>]*>)[\s\0]+", r"\1", text)
    return re.sub(r"\s*\0\s*", " ", text).strip()


def _each_once(raw: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(raw))


def without_markup(script: str) -> tuple[str, tuple[str, ...]]:
    """A script whose SSML is not read aloud: `<break time="1s"/>` becomes `[pause]`, the text of any other element
    stays; and those elements, as written, each once."""
    skipped: list[str] = []

    def replaced(found: re.Match) -> str:
        if _IS_BREAK.match(found.group()):
            return "[pause]"
        skipped.append(found.group())
        return ""

    text = _MARKUP.sub(replaced, script)
    return (html.unescape(text) if text != script else script), _each_once(skipped)
