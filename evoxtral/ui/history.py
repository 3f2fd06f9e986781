"""The history: results of earlier clips, stored in the visitor's own browser, edited and exported.

It has no audio, and the server stores nothing: the browser sends the results with each request that needs them. Changes
are sent back, and `page.js` merges them with what other tabs have stored.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace

from pydantic import ConfigDict, TypeAdapter, ValidationError

from evoxtral import tags
from evoxtral.results import FileResult
from evoxtral.transcript import Cue, Token, Transcript
from evoxtral.ui import diff, view

# A browser stores five million characters for a page; the whole history is sent when it is listed.
MAX_RESULTS, MAX_CHARACTERS = 50, 1_000_000
MAX_TIME = 1e6  # s; no time in a result is later


@dataclass(frozen=True)
class Result:
    """The transcripts of one clip, without its audio.

    file: name of the visitor's file.  model: name of the checkpoint.  time: the visitor's local time.
    written: variant → transcript.  reference: tagged reference, if known.  edits: variant → edited texts, one for each
    segment.
    """

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False)

    id: str
    file: str
    model: str
    time: str
    written: dict[str, Transcript]
    reference: str = ""
    edits: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def transcripts(self) -> dict[str, Transcript]:
        """As shown and exported: with edits."""
        return {
            variant: with_texts(transcript, self.edits[variant]) if variant in self.edits else transcript
            for variant, transcript in self.written.items()
        }

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        return max((transcript.duration for transcript in self.written.values()), default=0.0)

    def with_edit(self, variant: str, texts: Sequence[str]) -> "Result":
        """A copy with these texts for a variant's segments, one for each."""
        by_model = tuple(cue.text for cue in self.written[variant].cues)
        texts = tuple(text.strip()[: view.MAX_CHARACTERS] for text, _ in zip(texts, by_model, strict=True))
        return self.without_edit(variant) if texts == by_model else replace(self, edits={**self.edits, variant: texts})

    def without_edit(self, variant: str) -> "Result":
        """A copy with a variant's text as the model wrote it."""
        return replace(self, edits={name: texts for name, texts in self.edits.items() if name != variant})


def with_texts(written: Transcript, texts: Sequence[str]) -> Transcript:
    """A transcript with edited texts, one for each segment.

    A tag between the same words as before keeps its probability; a typed one has none.
    """
    sure = {span.offset: span.probability for span in written.tags}
    kept_offsets = diff.kept_offsets(written.text, " ".join(filter(None, texts)))
    cues: list[Cue] = []
    position = 0
    for cue, text in zip(written.cues, texts, strict=True):
        if text == cue.text:
            tokens, position = cue.tokens, position + len(text)
        else:
            tokens = ()
            for piece in tags.parse(text):
                tokens += (Token(piece.raw, sure.get(kept_offsets.get(position))),)
                position += len(piece.raw)
        cues.append(replace(cue, tokens=tokens))
        position += bool(text)  # one space joins two cues
    return replace(written, cues=tuple(cues), edited=True, confidence=None, hide_below=0.0)


# ---------------------------------------------------------------------------------------- the browser's storage


_RESULT = TypeAdapter(Result)


def parse_stored(stored: object) -> tuple[Result, ...]:
    """Results from the browser's storage, oldest first; invalid entries are skipped."""
    entries = stored[-MAX_RESULTS:] if isinstance(stored, list) else ()
    return tuple({result.id: result for result in map(_result, entries) if _is_valid(result)}.values())


def additions(*results: Result) -> list[dict]:
    """Changes that add results to the browser's storage: probabilities with four digits, times to the hundredth."""
    return [{"add": _RESULT.dump_python(_short(result), mode="json")} for result in results]


def _short(result: Result) -> Result:
    """With numbers of as many digits as are of use: three variants of half an hour have 20,000 tokens."""

    def short(token: Token) -> Token:
        _, probability, start, end = token
        digits = ((probability, 4), (start, 2), (end, 2))
        return Token(token.text, *(value if value is None else round(value, places) for value, places in digits))

    written = {
        variant: replace(
            transcript, cues=tuple(replace(cue, tokens=tuple(map(short, cue.tokens))) for cue in transcript.cues)
        )
        for variant, transcript in result.written.items()
    }
    return replace(result, written=written)


def updates(before: Iterable[Result], after: Iterable[Result]) -> list[dict]:
    """Changes that update stored results: only the reference and edits can change, and only what changed is sent.
    Results that were deleted in the meantime stay deleted."""
    changes = []
    for old, new in zip(before, after, strict=True):
        change: dict = {} if new.reference == old.reference else {"reference": new.reference}
        if new.edits != old.edits:
            variants = old.edits.keys() | new.edits.keys()
            edits = {name: new.edits.get(name) for name in variants if new.edits.get(name) != old.edits.get(name)}
            change["edits"] = {name: texts and list(texts) for name, texts in edits.items()}
        if change:
            changes.append({"id": new.id, **change})
    return changes


_RENAMED = {"seconds": "elapsed", "cut": "truncated"}  # fields of results stored before version 0.2


def _result(entry: object) -> Result | None:
    def with_new_names(fields: dict) -> dict:
        return {_RENAMED.get(name, name): value for name, value in fields.items()}

    try:
        kept = json.loads(json.dumps(entry), object_hook=with_new_names)
        return _RESULT.validate_json(json.dumps(kept))  # as JSON, so that lists are validated as tuples
    except (ValidationError, ValueError, RecursionError):
        return None


def _is_valid(result: Result | None) -> bool:
    """Whether a result of the right types has valid values too: visitors can change what their browser stores."""
    return (
        result is not None
        and bool(result.written)
        and all(map(_has_valid_values, result.written.values()))
        and all(
            variant in result.written and len(texts) == len(result.written[variant].cues)
            for variant, texts in result.edits.items()
        )
    )


def _has_valid_values(transcript: Transcript) -> bool:
    times = [transcript.duration, transcript.elapsed]
    times += [time for cue in transcript.cues for stretch in ((cue.start, cue.end), *cue.sounds) for time in stretch]
    chances = [token.probability or 0.0 for cue in transcript.cues for token in cue.tokens]
    return transcript.done and all(0 <= time <= MAX_TIME for time in times) and all(0 <= p <= 1 for p in chances)


# ---------------------------------------------------------------------------------------- exports


def to_json(results: Iterable[Result]) -> str:
    """The same list as `python -m evoxtral transcribe --format json` writes, with "edited" on edited texts."""
    listed = []
    for result in results:
        entry = asdict(FileResult.of(result.file, result.model, result.transcripts))
        for variant in result.edits:
            entry["variants"][variant]["edited"] = True
        listed.append(entry)
    return json.dumps(listed, ensure_ascii=False, indent=2, allow_nan=False)


def to_zip(results: Sequence[Result]) -> bytes:
    """`results.json`, and for each result a folder with the TXT, JSON, SRT and VTT of every variant."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("results.json", to_json(results))
        for number, result in enumerate(results, start=1):
            folder = f"{number:02}-{view.file_stem(result.file)}"
            for variant, transcript in result.transcripts.items():
                for kind, content in view.exports(transcript).items():
                    archive.writestr(f"{folder}/{view.safe(variant)}.{kind}", content)
    return packed.getvalue()
