"""The same clips by the same model with its weights in several precisions: what each of them costs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import SequenceMatcher

from evoxtral import metrics, words
from evoxtral.errors import EvoxtralError
from evoxtral.model.checkpoints import WEIGHTS

Tags = Sequence[tuple[str, float]]  # a text's tags as written, and the probability of each


def chosen(text: str | None) -> tuple[str, ...]:
    """Precisions as the command line takes them, "int8,int4,bf16", the most exact first; () where none is named.
    Raises EvoxtralError."""
    named = {*text.split(",")} if text else {*()}
    unknown = sorted(named - {*WEIGHTS})
    if unknown or ("auto" in named and len(named) > 1):
        raise EvoxtralError(
            f"--weights is {text!r}: name one of {', '.join(WEIGHTS)}, or several but auto, with commas between."
        )
    return tuple(kind for kind in WEIGHTS if kind in named)


def cost(ours: Sequence[Mapping], exact: Sequence[Mapping], variants: Sequence[str]) -> dict:
    """Variant -> how rows of a rung (predictions, probabilities, reference) differ from those of a more exact one.

    differences: of every score, paired by clip.  same_text: share of texts that are equal.  tags: how many are in both
    texts of a clip, in the same order.  tag_probability: the mean absolute difference of theirs, None without any.
    """
    return {variant: _cost(ours, exact, variant) for variant in variants}


def _cost(ours: Sequence[Mapping], exact: Sequence[Mapping], variant: str) -> dict:
    before, after = (
        metrics.score([(row["predictions"][variant], row["reference"]) for row in rows], normalised=True)
        for rows in (exact, ours)
    )
    same = [a["predictions"][variant] == b["predictions"][variant] for a, b in zip(ours, exact, strict=True)]
    apart = [
        abs(first - second)
        for a, b in zip(ours, exact, strict=True)
        for first, second in paired(tags_of(a, variant), tags_of(b, variant))
    ]
    return {
        "differences": {name: asdict(found) for name, found in metrics.compare(before, after).items() if found},
        "same_text": sum(same) / len(same),
        "tags": len(apart),
        "tag_probability": sum(apart) / len(apart) if apart else None,
    }


def tags_of(row: Mapping, variant: str) -> Tags:
    """The tags of a row's text; without the audio a text has no probabilities, and no tags here."""
    if "probabilities" not in row:
        return ()
    found = zip(words.split(row["predictions"][variant]), row["probabilities"][variant], strict=True)
    return [(raw, probability) for (_, raw, kind), probability in found if kind == "tag" and probability is not None]


def paired(ours: Tags, exact: Tags) -> Iterator[tuple[float, float]]:
    """The probabilities of the tags that both have, in the same order."""
    matcher = SequenceMatcher(None, [name for name, _ in ours], [name for name, _ in exact], autojunk=False)
    for first, second, size in matcher.get_matching_blocks():
        for k in range(size):
            yield ours[first + k][1], exact[second + k][1]
