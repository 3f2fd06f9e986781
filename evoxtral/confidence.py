"""Confidence of a transcript: the expected share of words that are right.

A logistic regression over features of decoding (probabilities of tokens, rate of words, unusual output), fitted by
`training/confidence.py` to the word accuracy of validation clips. Its weights are in the model's folder, in
`confidence.json`. Without that file, confidence is the mean probability of the words, uncalibrated.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from evoxtral.tags import EMPHASIS, Tag, parse, plain
from evoxtral.transcript import Transcript

FILE = "confidence.json"
WARNING = "This does not sound like speech that this model knows: expect mistakes."
FEATURES = (
    "mean_log_probability",  # of the words, each the product of its tokens
    "mean_probability",
    "lowest_tenth",  # the probability below which a tenth of the words lie
    "unsure",  # share of words below 0.5
    "words_a_second",
    "tags_a_word",
    "stressed",  # share of words in capitals
    "letters_a_token",
    "cut",  # ended by a loop or its budget
    "log_seconds",
    "phonemes_wrong",  # share of the phonemes that the encoder heard otherwise
    "phoneme_surprise",  # nats a phoneme by which the text is less likely than what the encoder heard
)
UNLIKELY = 1e-4  # smaller probabilities count as this one
MOST_SURPRISED = 20.0  # nats; more counts as this


@dataclass(frozen=True)
class Calibration:
    """weights: of the standardised FEATURES, with `means` and `scales`. bias: of the logit. warn: confidence below
    which a transcript is not to be trusted. tag: probability below which its tags are then hidden. tuned: whether
    it was fitted to validation clips.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    warn: float
    tag: float
    tuned: bool = True

    def confidence(self, transcript: Transcript) -> float | None:
        """Expected share of right words, 0 to 1; None where a model wrote nothing or a person changed the text."""
        found = features(transcript)
        if found is None:
            return None
        if not self.tuned:
            return found[FEATURES.index("mean_probability")]
        known = found[: len(self.weights)]  # one that was fitted to fewer features, of an older file
        rows = zip(known, self.means, self.scales, self.weights, strict=True)
        logit = self.bias + sum(w * (v - mean) / scale for v, mean, scale, w in rows if not math.isnan(v))
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))

    def judged(self, transcript: Transcript) -> Transcript:
        """A copy with its confidence and, where that is low, the probability below which its tags are hidden."""
        confidence = self.confidence(transcript)
        low = confidence is not None and confidence < self.warn
        return replace(transcript, confidence=confidence, hide_below=self.tag if low else 0.0)

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


UNTUNED = Calibration((), (), (), 0.0, warn=0.5, tag=0.8, tuned=False)


def load(folder: Path) -> Calibration:
    """Of the model in a folder; UNTUNED where it has none."""
    path = folder / FILE
    if not path.exists():
        return UNTUNED
    values = json.loads(path.read_text(encoding="utf-8"))
    return Calibration(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def features(transcript: Transcript) -> tuple[float, ...] | None:
    """FEATURES of a transcript, nan where one is not known; None where there is no token or a person wrote some."""
    tokens = [token for cue in transcript.cues for token in cue.tokens]
    if not tokens or any(token.probability is None for token in tokens):
        return None
    words = word_probabilities(transcript)
    logs = sorted(math.log(max(UNLIKELY, p)) for p in words)
    text = transcript.text
    spoken = plain(text).split()
    count = len(logs)
    seconds = max(0.1, transcript.duration)
    return (
        sum(logs) / count,
        sum(map(math.exp, logs)) / count,
        math.exp(logs[count // 10]),
        sum(p < math.log(0.5) for p in logs) / count,
        len(spoken) / seconds,
        len(transcript.tags) / (len(spoken) + 1),
        len(EMPHASIS.findall(text)) / (len(spoken) + 1),
        len(text) / len(tokens),
        float(transcript.truncated),
        math.log(seconds),
        *_agreement(transcript),
    )


def _agreement(transcript: Transcript) -> tuple[float, float]:
    """The last two FEATURES, over all segments for which they are known; not a number where none is."""
    found = [cue.agreement for cue in transcript.cues if cue.agreement]
    if not found:
        return math.nan, math.nan
    wrong, surprise = sum(one.wrong for one in found), sum(one.surprise for one in found)
    symbols = max(1, sum(one.symbols for one in found))
    return wrong / max(1, sum(one.phonemes for one in found)), min(MOST_SURPRISED, surprise / symbols)


def word_probabilities(transcript: Transcript) -> Sequence[float]:
    """Of each word, the product over its tokens; of each tag, where no word was written."""
    out, position = [], 0
    starts, ends, probabilities = transcript.placed_tokens()
    for piece in parse(transcript.text):
        if not isinstance(piece, Tag):
            offset = position
            for word in piece.raw.split():
                begin = transcript.text.index(word, offset)
                offset = begin + len(word)
                inside = [p for s, e, p in zip(starts, ends, probabilities, strict=True) if s < offset and e > begin]
                out.append(math.prod(inside))
        position += len(piece.raw)
    return out or [tag.probability or 0.0 for tag in transcript.tags] or [math.prod(probabilities)]
