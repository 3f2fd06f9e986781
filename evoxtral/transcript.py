"""Transcripts: tagged text with its times in the clip and the probabilities of its tokens.

Times are seconds from the start of the clip; probabilities lie in [0, 1]; offsets count characters of
`Transcript.text`.
"""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import NamedTuple

from evoxtral import subtitles, words
from evoxtral.tags import CATEGORIES, Tag, category, parse, plain, unstressed
from evoxtral.words import Word

# Hiding a tag must not leave a gap before these: "Well [laughs], yes" becomes "Well, yes".
_CLOSING_PUNCTUATION = tuple(",.;:!?…)")

FORMATS = ("txt", "json", "srt", "vtt", "prompt")  # of a transcript in a file
SUFFIXES = {"prompt": "prompt.txt"}  # of such a file, where it is not the format itself
MAX_PROMPT = 5000  # characters that ElevenLabs v3 takes at a time, tags included


class Token(NamedTuple):
    """Text of one decoded token, the probability the model gave it (None for text that a person typed), and the start
    and end of the word or tag it is of, in seconds from the start of the clip; None where no time is known."""

    text: str
    probability: float | None
    start: float | None = None
    end: float | None = None


class Agreement(NamedTuple):
    """Of a text with what the encoder heard by itself: see `inference/agreement.py`."""

    wrong: int
    """phonemes that are others in the text than were heard, that are missing there, or here"""
    phonemes: int
    """the greater number of phonemes, of those that were heard and those of the text"""
    surprise: float
    """log-likelihood of the text's symbols below that of the best path, in nats"""
    symbols: int
    """of the text"""


@dataclass(frozen=True)
class TagSpan:
    """One tag of a transcript. `probability` is that of its whole span: the product over the tokens in it."""

    name: str
    category: str
    offset: int
    """character offset in `text`"""
    probability: float | None
    """of the whole tag, 0 to 1; null if a person wrote it"""
    start: float | None = None
    """seconds from the start of the clip; null where no time is known"""
    end: float | None = None
    """seconds from the start of the clip, of a delivery where its sentence or the next delivery ends it"""


@dataclass(frozen=True)
class Cue:
    """One segment of the audio, `start` to `end` in seconds; `truncated` if its text was not decoded to the end; `done`
    unless more of its text is still being decoded.

    sounds: the stretches of it that are not silent, (start, end) in seconds from the start of the clip; () if unknown.
    channel: the channel or track it is of, where several are written side by side; "" elsewhere.
    agreement: of the text with what the encoder heard; None where that is not known.
    """

    start: float
    end: float
    tokens: tuple[Token, ...]
    truncated: bool = False
    sounds: tuple[tuple[float, float], ...] = ()
    done: bool = True
    channel: str = ""
    agreement: Agreement | None = None

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens).strip()

    @property
    def words(self) -> tuple[Word, ...]:
        """Its words and tags, as if there were no other segment: see `Transcript.words`."""
        return Transcript((self,), self.end, 0.0).words

    def moved(self, start: float, end: float, sounds: tuple[tuple[float, float], ...]) -> "Cue":
        """The same as a segment at another time, its tokens with it."""

        def later(time: float | None) -> float | None:
            return None if time is None else round(time + start - self.start, 2)

        tokens = tuple(token._replace(start=later(token.start), end=later(token.end)) for token in self.tokens)
        return replace(self, start=start, end=end, tokens=tokens, sounds=sounds)

    @property
    def lead(self) -> str:
        """What stands before its text in SRT and TXT: `Left: `, or nothing."""
        return subtitles.lead(self.channel)

    @property
    def heard(self) -> tuple[float, float]:
        """Start and end of its sound, without the silence around it."""
        return (self.sounds[0][0], self.sounds[-1][1]) if self.sounds else (self.start, self.end)


@dataclass(frozen=True)
class Transcript:
    """The transcript of one clip by one variant.

    cues: the clip's segments in order.  duration: seconds of audio.  elapsed: seconds spent on it so far.
    done: False while more text is still being decoded.  edited: whether a person changed the text since.
    confidence: expected share of right words; None where it is not known.  hide_below: the probability that a tag must
    have to be shown, unless a reader asks for all of them; above 0 where the text is doubtful. See `confidence.py`.
    incomplete: what is missing of the recording, as "ends after 12.4 of 30.0 s".  notes: what of it was left out.
    track, channel: which it is, where it was asked for.
    """

    cues: tuple[Cue, ...]
    duration: float
    elapsed: float
    done: bool = True
    edited: bool = False
    confidence: float | None = None
    hide_below: float = 0.0
    incomplete: str | None = None
    notes: tuple[str, ...] = ()
    track: str | None = None
    channel: str | None = None

    @property
    def text(self) -> str:
        """The cues' texts, tags in, joined by one space."""
        return " ".join(cue.text for cue in self.spoken_cues())

    @property
    def plain(self) -> str:
        """What was said, without tags and emphasis, as the benchmark reads it."""
        return plain(self.text)

    @property
    def truncated(self) -> bool:
        """Whether any segment ran out of its token budget."""
        return any(cue.truncated for cue in self.cues)

    @property
    def doubtful(self) -> bool:
        """Whether a reader should expect mistakes."""
        return self.hide_below > 0

    @property
    def token_count(self) -> int:
        """How many tokens a model decoded."""
        return sum(token.probability is not None for cue in self.cues for token in cue.tokens)

    @property
    def words(self) -> tuple[Word, ...]:
        """Every word and tag in order of offset, with its times and its probability, the product over its tokens."""
        text = self.text
        tokens = [token for cue in self.spoken_cues() for token in cue.tokens]
        starts, ends, _ = self.placed_tokens()
        found = []
        for offset, raw, kind in words.split(text):
            own = tokens[bisect_right(ends, offset) : bisect_left(starts, offset + len(raw))]
            probability = _product([token.probability for token in own])
            timed = [token for token in own if token.start is not None]  # not all are, as a space before it
            start, end = (timed[0].start, timed[-1].end) if timed else (None, None)
            found.append(Word(raw, start, end, probability, kind, offset))
        return words.with_extents(found)

    @property
    def tags(self) -> tuple[TagSpan, ...]:
        """Every tag in order of offset, with the probability of its span."""
        found = []
        for tag in self.words:
            if tag.kind == "tag":
                name = Tag(tag.text).name
                found.append(TagSpan(name, category(name), tag.offset, tag.probability, tag.start, tag.end))
        return tuple(found)

    def without(self, min_probability: float = 0.0, hidden_categories: Collection[str] = frozenset()) -> "Transcript":
        """A copy without tags below a probability and without tags of hidden categories.

        A tag of unknown probability is not below any. Where a tag is hidden, the white space of one side goes
        with it, and of both sides at the ends of the text and before closing punctuation. Emphasis stays.
        """
        spans = iter(self.tags)
        text = self.text
        kept: list[int] = []  # places of the characters that stay
        position, gap = 0, False
        for piece in parse(text):
            start, position = position, position + len(piece.raw)
            if isinstance(piece, Tag) and _hidden(next(spans), min_probability, hidden_categories):
                gap = True
                continue
            if gap:
                start = _close_gap(text, kept, start)
                gap = False
            kept.extend(range(start, position))
        if len(kept) == len(text):
            return self
        places = frozenset(kept)
        return self._rewritten([character if i in places else "" for i, character in enumerate(text)])

    def words_alone(self) -> "Transcript":
        """A copy without tags, and without the capitals of stressed words."""
        spoken = self.without(hidden_categories=CATEGORIES)
        return spoken._rewritten(unstressed(spoken.text))

    def broken_off(self) -> "Transcript":
        """This partial transcript as a final one: its last segment is truncated."""
        if self.done:
            return self
        *before, last = self.cues or (Cue(0.0, self.duration, ()),)
        return replace(self, cues=(*before, replace(last, truncated=True)), done=True)

    def to_txt(self) -> str:
        """The tagged text; where channels are written side by side, a line for each turn: `Left: …`."""
        turns = groupby(self.spoken_cues(), lambda cue: cue.lead)
        return "\n".join(lead + " ".join(cue.text for cue in cues) for lead, cues in turns)

    def to_json(self) -> str:
        """As JSON: the fields of `VariantResult`, and whether a person edited the text."""
        return json.dumps(asdict(VariantResult.of(self)) | {"edited": self.edited}, ensure_ascii=False, indent=2)

    def to_prompt(self) -> str:
        """The tagged text for ElevenLabs v3, in paragraphs of at most what it takes at a time."""
        return "\n\n".join(subtitles.paragraphs(self.text, MAX_PROMPT))

    def to_srt(self) -> str:
        """SubRip subtitles, tags in: see `subtitles`."""
        return subtitles.to_srt(self.spoken_cues())

    def to_vtt(self) -> str:
        """WebVTT captions, tags in: see `subtitles`."""
        return subtitles.to_vtt(self.spoken_cues())

    def subtitles(self) -> "tuple[TimedText, ...]":
        """The cues of `to_srt` and `to_vtt` as data, their lines divided by a line break."""
        return tuple(
            TimedText(round(one.start, 3), round(one.end, 3), "\n".join(one.lines), one.channel or None)
            for one in subtitles.captions(self.spoken_cues())
        )

    def export(self, form: str) -> str:
        """As one of FORMATS: what `to_txt`, `to_json`, `to_srt`, `to_vtt` or `to_prompt` gives."""
        return getattr(self, f"to_{form}")()

    def spoken_cues(self) -> Iterator[Cue]:
        """The segments in which something was written."""
        return (cue for cue in self.cues if cue.text)

    def _rewritten(self, characters: Sequence[str]) -> "Transcript":
        """A copy with each character of `text` replaced by a string; the empty string deletes it."""
        starts, ends, _ = self.placed_tokens()
        spans = map(slice, starts, ends)
        cues = []
        for cue in self.spoken_cues():
            tokens = [token._replace(text="".join(characters[next(spans)])) for token in cue.tokens]
            cues.append(replace(cue, tokens=tuple(token for token in tokens if token.text)))
        return replace(self, cues=tuple(cues))

    def placed_tokens(self) -> tuple[list[int], list[int], list[float | None]]:
        """Starts and ends of all tokens in order, as character offsets in `text`, and their probabilities."""
        starts: list[int] = []
        ends: list[int] = []
        probabilities: list[float | None] = []
        offset = 0
        for cue in self.spoken_cues():
            raw = "".join(token.text for token in cue.tokens)
            # White space that `Cue.text` strips has no characters there: such tokens get an empty range.
            low, high = offset, offset + len(cue.text)
            position = low - (len(raw) - len(raw.lstrip()))
            for token in cue.tokens:
                starts.append(min(max(position, low), high))
                position += len(token.text)
                ends.append(min(max(position, low), high))
                probabilities.append(token.probability)
            offset = high + 1  # one space joins two cues
        return starts, ends, probabilities


@dataclass(frozen=True)
class TimedText:
    """Some of the text, a segment or a subtitle, with its times."""

    start: float
    """seconds from the start of the clip"""
    end: float
    """seconds from the start of the clip"""
    text: str
    """with tags"""
    channel: str | None = None
    """the channel or track it is of, where each was asked for"""


@dataclass(frozen=True)
class VariantResult:
    """A transcript as programs get it, from the command line, the APIs and the page alike."""

    __pydantic_config__ = {"use_attribute_docstrings": True}  # the docstrings below are the descriptions in the schemas

    text: str
    """with tags"""
    plain: str
    """words only"""
    tags: tuple[TagSpan, ...]
    """in order of offset"""
    elapsed: float
    """seconds spent on it"""
    truncated: bool
    """whether the text was ended at its length limit, or because it repeated itself"""
    confidence: float | None
    """expected share of right words, 0 to 1; null if nothing was written or a person changed it"""
    doubtful: bool
    """whether the confidence is so low that mistakes must be expected"""
    segments: tuple[TimedText, ...]
    """the stretches of speech that were decoded each by itself; their texts, joined by one space, are `text`"""
    cues: tuple[TimedText, ...]
    """the subtitles, as SRT and WebVTT have them, with line breaks: where the text is doubtful, without hidden tags"""
    words: tuple[Word, ...]
    """every word and tag with its times, in order of offset"""

    @classmethod
    def of(cls, transcript: Transcript) -> "VariantResult":
        segments = tuple(TimedText(*cue.heard, cue.text, cue.channel or None) for cue in transcript.spoken_cues())
        cues = transcript.without(transcript.hide_below).subtitles()
        written = transcript.text, transcript.plain, transcript.tags, transcript.elapsed, transcript.truncated
        return cls(*written, transcript.confidence, transcript.doubtful, segments, cues, transcript.words)


def _product(probabilities: list[float | None]) -> float | None:
    known = [probability for probability in probabilities if probability is not None]
    return math.prod(known) if len(known) == len(probabilities) else None


def _hidden(span: TagSpan, min_probability: float, hidden_categories: Collection[str]) -> bool:
    unlikely = span.probability is not None and span.probability < min_probability
    return unlikely or span.category in hidden_categories


def _close_gap(text: str, kept: list[int], start: int) -> int:
    """Join what is kept of a text to what follows a hidden tag, from `start` on: cuts the white space between
    them from the end of `kept`, or gives a later start."""
    right = start
    while right < len(text) and text[right].isspace():
        right += 1
    left = len(kept)
    while left and text[kept[left - 1]].isspace():
        left -= 1
    if not left or text.startswith(_CLOSING_PUNCTUATION, start):
        del kept[left:]
        return right
    return start if left == len(kept) else right
