"""What clips gave, kept in the visitor's own browser: shown again, changed by hand, and exported together.

No audio, and nothing on the server: results come from the browser with each request that needs them, and what has
changed goes back there, where `page.js` joins it to what other tabs have written.
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

# Of the five million characters that a browser stores for a page; all of them travel when the history is listed.
MAX_RESULTS, MAX_CHARACTERS = 50, 1_000_000
LONGEST = 1e6  # s; no time in a result is later


@dataclass(frozen=True)
class Result:
    """What one clip gave, without the clip.

    file: what the visitor calls it.  model: which one listened.  time: by the visitor's clock.  written: what
    each variant wrote.  reference: what was really said, if known.  edits: what a person made of a variant's
    text, one text for each of its segments.
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
        """As they are shown and exported: edited where a person changed them."""
        return {
            variant: rewritten(transcript, self.edits[variant]) if variant in self.edits else transcript
            for variant, transcript in self.written.items()
        }

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        return max((transcript.duration for transcript in self.written.values()), default=0.0)

    def edited(self, variant: str, texts: Sequence[str]) -> "Result":
        """With these texts of a variant's segments, one for each, instead of the model's."""
        by_model = tuple(cue.text for cue in self.written[variant].cues)
        texts = tuple(text.strip()[: view.MAX_CHARACTERS] for text, _ in zip(texts, by_model, strict=True))
        return self.as_written(variant) if texts == by_model else replace(self, edits={**self.edits, variant: texts})

    def as_written(self, variant: str) -> "Result":
        """With a variant's text as the model wrote it."""
        return replace(self, edits={name: texts for name, texts in self.edits.items() if name != variant})


def rewritten(written: Transcript, texts: Sequence[str]) -> Transcript:
    """A transcript with a person's text for each of its segments.

    A tag that still stands between the same words keeps its probability; what was typed has none.
    """
    sure = {span.offset: span.probability for span in written.tags}
    stayed = diff.stayed(written.text, " ".join(filter(None, texts)))
    cues: list[Cue] = []
    position = 0
    for cue, text in zip(written.cues, texts, strict=True):
        if text == cue.text:
            tokens, position = cue.tokens, position + len(text)
        else:
            tokens = ()
            for piece in tags.parse(text):
                tokens += (Token(piece.raw, sure.get(stayed.get(position))),)
                position += len(piece.raw)
        cues.append(replace(cue, tokens=tokens))
        position += bool(text)  # one space joins two cues
    return replace(written, cues=tuple(cues), edited=True, confidence=None, hide_below=0.0)


# ---------------------------------------------------------------------------------------- the browser's storage


_RESULT = TypeAdapter(Result)


def recall(stored: object) -> tuple[Result, ...]:
    """The results that a browser kept, oldest first; what is not a result, or not a sound one, is passed over."""
    entries = stored[-MAX_RESULTS:] if isinstance(stored, list) else ()
    return tuple({result.id: result for result in map(_result, entries) if _is_sound(result)}.values())


def added(*results: Result) -> list[dict]:
    """Changes that put new results into the browser's storage."""
    return [{"add": _RESULT.dump_python(result, mode="json")} for result in results]


def changed(before: Iterable[Result], after: Iterable[Result]) -> list[dict]:
    """Changes that make the same results in storage, if they are still there, what they are now: only a reference and
    edits are ever new, and only those that are new are named."""
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


_RENAMED = {"seconds": "elapsed", "cut": "truncated"}  # fields of results that a browser kept before version 0.2


def _result(entry: object) -> Result | None:
    def with_new_names(fields: dict) -> dict:
        return {_RENAMED.get(name, name): value for name, value in fields.items()}

    try:
        kept = json.loads(json.dumps(entry), object_hook=with_new_names)
        return _RESULT.validate_json(json.dumps(kept))  # as JSON: lists become the tuples they were
    except (ValidationError, ValueError, RecursionError):
        return None


def _is_sound(result: Result | None) -> bool:
    """Whether what has the right types can also be shown: storage can be changed by hand."""
    return (
        result is not None
        and bool(result.written)
        and all(map(_is_possible, result.written.values()))
        and all(
            variant in result.written and len(texts) == len(result.written[variant].cues)
            for variant, texts in result.edits.items()
        )
    )


def _is_possible(transcript: Transcript) -> bool:
    times = [transcript.duration, transcript.elapsed]
    times += [time for cue in transcript.cues for stretch in ((cue.start, cue.end), *cue.sounds) for time in stretch]
    chances = [token.probability or 0.0 for cue in transcript.cues for token in cue.tokens]
    return transcript.done and all(0 <= time <= LONGEST for time in times) and all(0 <= p <= 1 for p in chances)


# ---------------------------------------------------------------------------------------- exports


def to_json(results: Iterable[Result]) -> str:
    """The list that `python -m evoxtral transcribe --format json` writes; an edited text says so."""
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
