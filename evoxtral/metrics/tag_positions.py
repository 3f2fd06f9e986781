"""Which tags of a prediction stand where the reference has them: words are aligned first, then tags are compared.

The alignment has the fewest word errors and, of those alignments, the most equal words. (jiwer's prefers
substitutions: its hits are not the most that there could be.) Words are compared without case and without the
punctuation around them; what has no letter and no digit is no word here. Two words that stand opposite each other,
equal or not, are an aligned pair, and pairs are the measure of place: a word that only one text has moves no tag. So a
recognition error is no tag error, as in the position-aware protocol of WESR-Bench (arXiv 2601.04508).

- A sound, a pause and a stammer stand at one point, the slot between two aligned pairs. Right is one in the same slot.
- A delivery and an emotion have an extent, from the tag to the end of the sentence or to the next delivery, whichever
  comes first; deliveries in a row share theirs. Two that overlap are right by the share that is common to both
  (intersection over union, in aligned pairs).

A tag whose place cannot be compared is a miss: a delivery none of whose words is aligned, and every tag where the
reference has words and none of them is aligned. WESR-Bench counts an extent by the words it covers in both texts: with
no aligned word there is no such word, and F1 must not rise because the words were lost. Where the reference has no
words at all, its one slot is the place of every sound.

Each tag counts once: of three `[laughs]` in a slot where the reference has two, two are right.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

import jiwer
import numpy as np

from evoxtral import tags

SPANS = ("delivery", "emotion")  # categories that colour a stretch of speech
POINTS = frozenset({"stammers"})  # deliveries that act on one word
MAX_CELLS = 25_000_000  # of the alignment's table, 25 MB; two longer texts get jiwer's alignment
Stretch = tuple[int, int]  # [first, last) in words, or in aligned pairs; a point has no length


def right_tags(prediction: str, reference: str, tolerances: Sequence[int] = (0,)) -> list[dict[str, float]]:
    """How many tags of each name are right by place, an overlap as its share; one answer for each tolerance.

    tolerances: aligned words by which a point, or each end of an extent, may be off and still be right.
    """
    both = _Compared(prediction, reference)
    return [{name: sum(shares) for name, shares in both.right(tolerance).items()} for tolerance in tolerances]


def places(prediction: str, reference: str) -> dict[str, tuple[int, int, int]]:
    """Of each tag of either text, the places that both give it, the prediction, and the reference.

    As WESR-Bench counts, in its own evaluation (github.com/Cr-Fish/WESR): a sound is at the slot between two words, an
    extent at each word that it covers, and a place counts once, whatever is written twice there. Words that only one
    text has are no places; an extent none of whose words is aligned is one, and it is wrong.
    """
    both = _Compared(prediction, reference)
    names = both.predicted.keys() | both.expected.keys()
    in_truth, in_hypothesis = both.aligned
    found = {}
    for name in names:
        predicted, lost = _covered(both.predicted.get(name, ()), in_hypothesis)
        expected, missed = _covered(both.expected.get(name, ()), in_truth)
        common = 0 if both.truth and not both.pairs else len(predicted & expected)
        found[name] = common, len(predicted) + lost, len(expected) + missed
    return found


def right_one_by_one(prediction: str, reference: str) -> list[tuple[str, float]]:
    """Every word and tag of the prediction in order: its text, a tag as its name in brackets, and how right it is.

    A word is right (1) where it is aligned with an equal one, else 0; a tag by its place, an overlap as its share.
    """
    both = _Compared(prediction, reference)
    equal = {j for i, j in both.pairs if both.truth[i] == both.hypothesis[j]}
    shares = {name: iter(found) for name, found in both.right(0).items()}
    found, number = [], 0
    for piece in tags.parse(prediction):
        if isinstance(piece, tags.Tag):
            found.append((f"[{piece.name}]", next(shares[piece.name]) if piece.name in shares else 0.0))
            continue
        for word in filter(None, map(_bare, piece.raw.split())):
            found.append((word, float(number in equal)))
            number += 1
    return found


class _Compared:
    """Two texts, words aligned.  truth, hypothesis: the words of reference and prediction.  pairs: see `align`."""

    def __init__(self, prediction: str, reference: str):
        self.hypothesis, self.predicted = _read(prediction)
        self.truth, self.expected = _read(reference)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        return align(self.truth, self.hypothesis)

    @property
    def aligned(self) -> tuple[np.ndarray, np.ndarray]:
        """The indices of the words in pairs: of the reference, of the prediction."""
        return tuple(np.array([pair[side] for pair in self.pairs], int) for side in (0, 1))

    def right(self, tolerance: int) -> dict[str, list[float]]:
        """Of each name that both texts have, how right each of the prediction's tags is, in order."""
        names = self.predicted.keys() & self.expected.keys()
        if not names:
            return {}
        if self.truth and not self.pairs:
            return {name: [0.0] * len(self.predicted[name]) for name in names}
        in_truth, in_hypothesis = self.aligned
        return {
            name: _matched(
                _in_pairs(self.expected[name], in_truth), _in_pairs(self.predicted[name], in_hypothesis), tolerance
            )
            for name in names
        }


def align(truth: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[int, int]]:
    """Aligned pairs (index in truth, index in hypothesis), both ascending: fewest errors, then most equal words."""
    n, m = len(truth), len(hypothesis)
    numbers: dict[str, int] = {}
    a, b = (np.array([numbers.setdefault(word, len(numbers)) for word in words], int) for words in (truth, hypothesis))
    if n * m > MAX_CELLS:
        return _align_long(a, b)
    error = min(n, m) + 1  # more than all hits together are worth
    steps = np.arange(m + 1) * error
    before, moves = steps, np.empty((n, m + 1), np.int8)
    for i in range(n):
        opposite = before[:-1] + np.where(b == a[i], -1, error)
        missed = before + error
        best = missed.copy()
        np.minimum(best[1:], opposite, out=best[1:])
        row = np.minimum.accumulate(best - steps) + steps  # inserted words, however many in a row
        moves[i] = np.where(row == missed, 1, 2)
        moves[i, 1:][row[1:] == opposite] = 0
        before = row
    pairs = []
    i, j = n, m
    while i and j:
        move = moves[i - 1, j]
        i, j = i - (move != 2), j - (move != 1)
        if move == 0:
            pairs.append((i, j))
    return pairs[::-1]


def _align_long(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    chunks = jiwer.process_words(" ".join(map(str, a)), " ".join(map(str, b))).alignments[0]
    return [
        (chunk.ref_start_idx + k, chunk.hyp_start_idx + k)
        for chunk in chunks
        if chunk.type in ("equal", "substitute")
        for k in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]


def _read(text: str) -> tuple[list[str], dict[str, list[Stretch]]]:
    """The words to align, and where each tag stands, in words."""
    words: list[str] = []
    stretches: dict[str, list[Stretch]] = defaultdict(list)
    open_spans: list[tuple[str, int]] = []

    def close() -> None:
        for name, start in open_spans:
            stretches[name].append((start, len(words)))
        open_spans.clear()

    for piece in tags.parse(text):
        if isinstance(piece, tags.Tag):
            if tags.category(piece.name) in SPANS and piece.name not in POINTS:
                if open_spans and open_spans[-1][1] < len(words):
                    close()
                open_spans.append((piece.name, len(words)))
            else:
                stretches[piece.name].append((len(words), len(words)))
            continue
        for written in piece.raw.split():
            word = _bare(written)
            if word:
                words.append(word)
            if tags.ends_sentence(written) and open_spans and open_spans[0][1] < len(words):
                close()
    close()
    return words, stretches


def _bare(written: str) -> str:
    """A word without case and without what surrounds its letters and digits; "" if it has none."""
    kept = [i for i, character in enumerate(written) if character.isalnum()]
    return written[kept[0] : kept[-1] + 1].casefold() if kept else ""


def _in_pairs(stretches: Sequence[Stretch], aligned: np.ndarray) -> list[Stretch | None]:
    """Stretches of one text's words, in order, as stretches of aligned pairs; None if none of its words is aligned.

    aligned: the indices of its words that are.
    """
    placed = ((stretch, tuple(np.searchsorted(aligned, stretch).tolist())) for stretch in sorted(stretches))
    return [pairs if start == end or pairs[0] < pairs[1] else None for (start, end), pairs in placed]


def _covered(stretches: Sequence[Stretch], aligned: np.ndarray) -> tuple[set[int], int]:
    """The places of stretches, even numbers for slots and odd ones for aligned words; and how many have none."""
    covered: set[int] = set()
    lost = 0
    for stretch in stretches:
        start, end = np.searchsorted(aligned, stretch).tolist()
        if stretch[0] == stretch[1]:
            covered.add(2 * start)
        else:
            covered.update(range(2 * start + 1, 2 * end, 2))
            lost += start == end
    return covered, lost


def _matched(expected: list[Stretch | None], predicted: list[Stretch | None], tolerance: int) -> list[float]:
    """How right each of the predicted is where one-to-one pairs of stretches in the same order are right the most."""
    best = [[0.0] * (len(predicted) + 1)]
    for one in expected:
        before, row = best[-1], [0.0]
        for j, other in enumerate(predicted):
            row.append(max(row[-1], before[j + 1], before[j] + _right(one, other, tolerance)))
        best.append(row)
    shares = [0.0] * len(predicted)
    i, j = len(expected), len(predicted)
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            shares[j] = _right(expected[i], predicted[j], tolerance)
    return shares


def _right(one: Stretch | None, other: Stretch | None, tolerance: int) -> float:
    if one is None or other is None:
        return 0.0
    if abs(one[0] - other[0]) <= tolerance and abs(one[1] - other[1]) <= tolerance:
        return 1.0
    common = min(one[1], other[1]) - max(one[0], other[0])
    return max(0, common) / (max(one[1], other[1]) - min(one[0], other[0]))
