"""What is wrong with a corpus, before anything trains on it: every line is read, and every recording is heard."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from evoxtral import audio, tags
from evoxtral.errors import AudioError
from training import loop
from training.corpora import splitting
from training.corpora.reading import Corpus, Finding, Row, Source, unlisted

MAX_RECORDING = 4 * 3600.0  # s of one file
MAX_PACE = 35.0  # characters in a second of recording; the fastest speech has about 25
MIN_PACE = 2.0  # characters in a second of sound, tags aside; slow speech has 8
TAG_SECONDS = 4.0  # that a tag may sound for
FEW = 20  # clips; less trains nothing and measures nothing
_OTHER_TAGS = re.compile(r"\(([a-z][a-z ]{2,24})\)|\*([a-z][a-z ]{2,24})\*|<([a-z][a-z_ ]{2,24})>", re.IGNORECASE)


@dataclass(frozen=True)
class Heard:
    """A clip as its recording sounds. row: with its split. sounding: s in which a voice is heard. level: LUFS. peak: of
    full scale. digest: of the waveform."""

    row: Row
    seconds: float
    sounding: float
    level: float
    peak: float
    digest: str


@dataclass(frozen=True)
class Report:
    """clips: those that could be heard. findings: fatal ones first. splitting: how splits were chosen."""

    corpus: Corpus
    window: float
    clips: list[Heard]
    findings: list[Finding]
    splitting: str
    ten: list[tuple[Heard, np.ndarray]] = field(default_factory=list)  # to listen to

    @property
    def fatal(self) -> int:
        """How many findings would make training wrong."""
        return sum(finding.fatal for finding in self.findings)


def check(corpus: Corpus, window: float = 30.0, listen: int = 10) -> Report:
    """Read every line and hear every recording. window: s that the model hears at once. listen: clips to keep."""
    findings = list(corpus.findings)
    for row in corpus.rows:
        findings += about_text(row)
    rows, how = splitting.split(corpus.rows) if corpus.rows else ([], "There are no clips to split.")
    clips: list[Heard] = []
    kept: list[tuple[Heard, np.ndarray]] = []
    step = max(1, len(rows) // listen)
    wanted = {id(row) for row in rows[::step][:listen]}
    groups = [(source, list(group)) for source, group in groupby(rows, key=lambda row: row.source)]
    with ThreadPoolExecutor(loop.cores()) as pool:
        for heard in pool.map(lambda group: hear(*group, window), groups):
            for clip, waveform, wrong in heard:
                findings += wrong
                if clip:
                    clips.append(clip)
                    if id(clip.row) in wanted:
                        kept.append((clip, waveform))
    findings += between_splits(clips) + about_all(corpus, clips)
    findings.sort(key=lambda finding: not finding.fatal)
    return Report(corpus, window, clips, findings, how, kept)


# --- one line --------------------------------------------------------------------------------------------------


def too_few(corpus: Corpus, count: int) -> Finding:
    return Finding(corpus.name, f"{count} clips are too few to learn from: add some.", fatal=False)


def about_text(row: Row) -> list[Finding]:
    """What is wrong with a text alone."""
    found = []
    if not row.text:
        found.append(Finding(row.where, f"{row.name} has an empty text: write what is said, or remove the line."))
    rest = tags.without_tags(row.text)
    if "[" in rest or "]" in rest:
        found.append(Finding(row.where, f"{_quoted(row.text)} has a bracket that is not closed: write [laughs]."))
    for match in _OTHER_TAGS.finditer(rest):
        name = next(name for name in match.groups() if name).replace("_", " ")
        if match[0][0] == "<" or tags.group(name) in tags.VOCABULARY:
            found.append(
                Finding(row.where, f"{match[0]} would be trained as words: a tag stands in brackets, [{name.lower()}].")
            )
    return found


def _quoted(text: str) -> str:
    return f'"{text[:60]}{"…" if len(text) > 60 else ""}"'


# --- one recording ---------------------------------------------------------------------------------------------


def hear(
    source: Source, rows: Sequence[Row], window: float
) -> list[tuple[Heard | None, np.ndarray | None, list[Finding]]]:
    """Each clip of one recording with its waveform (T,) and what is wrong with it; no clip where it cannot be used."""
    try:
        recording = audio.read(source.read(), MAX_RECORDING)
    except AudioError as error:
        return [(None, None, [Finding(row.where, str(error))]) for row in rows]
    return [_heard(row, recording, window) for row in rows]


def cut(row: Row, waveform: np.ndarray) -> np.ndarray:
    """A clip of its recording's waveform (T,)."""
    first = round((row.start or 0.0) * audio.SAMPLE_RATE)
    return waveform[first : None if row.end is None else round(row.end * audio.SAMPLE_RATE)]


def _heard(
    row: Row, recording: audio.Recording, window: float
) -> tuple[Heard | None, np.ndarray | None, list[Finding]]:
    total, waveform = recording.duration, cut(row, recording.waveform)
    seconds, found = audio.duration(waveform), []
    if max(row.start or 0.0, (row.end or 0.0) - 0.5) >= total:
        ends = f"ends at {row.end:g} s" if row.end else f"starts at {row.start:g} s"
        return None, None, [Finding(row.where, f"{row.name} is {total:.1f} s long and the clip {ends}: check times.")]
    if seconds > window:
        sentence = f"{row.name} is {seconds:.1f} s long and the model hears {window:g} s at once: " + (
            "divide the segment." if row.start is not None else "give start and end of each sentence, or cut it."
        )
        return None, None, [Finding(row.where, sentence)]
    sounding = sum(end - start for part in audio.segments(waveform, window) for start, end in part.sounds)
    clip = Heard(
        row, seconds, sounding, audio.loudness(waveform), float(np.abs(waveform).max(initial=0)),
        hashlib.blake2b(waveform.tobytes(), digest_size=12).hexdigest(),
    )  # fmt: skip
    if recording.incomplete:
        found.append(Finding(row.where, f"{row.name} {recording.incomplete}: copy it again.", fatal=False))
    if audio.is_silent(waveform, any_sound=True):
        found.append(Finding(row.where, f"{row.name} is silent: record it again, or remove the line."))
        return None, None, found
    if not sounding:
        found.append(Finding(row.where, f"in {row.name} no voice is heard: listen to it.", fatal=False))
    return clip, waveform, found + _paces(clip)


def _paces(clip: Heard) -> list[Finding]:
    """Whether a text can be what its recording says."""
    said, count = len(tags.plain(clip.row.text)), len(tags.names(clip.row.text))
    if said / clip.seconds > MAX_PACE:
        return [
            Finding(
                clip.row.where,
                f"{said} characters cannot be said in {clip.seconds:.1f} s: give the text of this "
                "recording, or all of the recording.",
            )  # fmt: skip
        ]
    left = clip.sounding - TAG_SECONDS * count
    if clip.row.text and left > 3 and said / left < MIN_PACE:
        return [
            Finding(
                clip.row.where,
                f"{clip.row.name} sounds for {clip.sounding:.1f} s and its text is "
                f"{_quoted(clip.row.text)}: write all that is said.",
            )  # fmt: skip
        ]
    return []


# --- all of them -----------------------------------------------------------------------------------------------


def between_splits(clips: Iterable[Heard]) -> list[Finding]:
    """Sentences and recordings that are in two splits, and those that are there twice."""
    found = []
    kinds = {"the sentence of": lambda c: splitting.sentence(c.row.text), "the recording of": lambda c: c.digest}
    clips = list(clips)
    for kind, key in kinds.items():
        alike: dict[str, list[Heard]] = defaultdict(list)
        for clip in clips:
            if name := key(clip):
                alike[name].append(clip)
        for same in alike.values():
            splits = list(dict.fromkeys(clip.row.split for clip in same))
            if len(splits) > 1:
                first, other = (next(c for c in same if c.row.split == name) for name in splits[:2])
                found.append(
                    Finding(
                        other.row.where,
                        f"{kind} {other.row.name} is in {other.row.split} and in {first.row.split} "
                        f"({first.row.where}): a score on it would say nothing, so leave one out.",
                    )
                )
            elif kind == "the recording of" and len(same) > 1:
                found.append(
                    Finding(same[1].row.where, f"{same[1].row.name} sounds as {same[0].row.name} does.", fatal=False)
                )
    return found


def about_all(corpus: Corpus, clips: Sequence[Heard]) -> list[Finding]:
    """What only shows in all clips together."""
    found = []
    counts = Counter(clip.row.split for clip in clips)
    for name in splitting.SHARES:
        if not counts[name]:
            found.append(Finding(corpus.name, f"there is no clip to {_USES[name]} ({name}): add clips."))
    if len(clips) < FEW:
        found.append(too_few(corpus, len(clips)))
    if clips and not any(tags.names(clip.row.text) for clip in clips):
        found.append(
            Finding(corpus.name, "no text has a tag such as [laughs]: there is nothing to learn.", fatal=False)
        )
    trained = {clip.row.speaker for clip in clips if clip.row.split == "train"} - {""}
    shared = sorted({clip.row.speaker for clip in clips if clip.row.split == "test"} & trained)
    if shared:
        found.append(
            Finding(corpus.name, f"Speakers of test are in train too: {', '.join(shared[:3])} ({len(shared)}).", False)
        )
    sources: dict[Source, set[str]] = defaultdict(set)
    for clip in clips:
        sources[clip.row.source].add(clip.row.split)
    if several := [source.path.name for source, splits in sources.items() if len(splits) > 1]:
        found.append(Finding(corpus.name, f"segments of {several[0]} are in several splits.", False))
    if languages := sorted({clip.row.language for clip in clips} - {"", "en"}):
        found.append(Finding(corpus.name, f"there are clips in {', '.join(languages)}: a recipe trains one.", False))
    if clipped := [clip for clip in clips if clip.peak >= 0.999]:
        found.append(Finding(corpus.name, f"{len(clipped)} clips reach full scale ({clipped[0].row.name}).", False))
    if left := unlisted(corpus):
        found.append(Finding(corpus.name, f"{len(left)} recordings have no line, such as {left[0]}.", False))
    return found


_USES = {"train": "train on", "validation": "validate with", "test": "test with"}
