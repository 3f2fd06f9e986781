"""Predictions with their references: a JSONL file of them."""

import json
import re

from evoxtral.errors import EvoxtralError

Pair = tuple[str, str]
PAIR = '{"prediction": "…", "reference": "…"}'  # how a line of a JSONL file holds one
HALF_PAIR = re.compile("[\ud800-\udfff]")


def parse_pairs(content: bytes, name: str) -> list[Pair]:
    """(prediction, reference) of each line of a JSONL file; empty lines are passed over.

    name: what the file is called. Raises EvoxtralError, which says which line is wrong and how.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")  # str.splitlines would split at U+2028, which JSON allows
    except UnicodeDecodeError:
        raise EvoxtralError(f"{name} is not UTF-8 text: save it as JSON lines in UTF-8.") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            pair = _parse_pair(line)
            if isinstance(pair, str):
                raise EvoxtralError(f"{name}, line {number} {pair}: each line should be {PAIR}.")
            pairs.append(pair)
    if not pairs:
        raise EvoxtralError(f"{name} has no lines; each should be {PAIR}.")
    return pairs


def _parse_pair(line: str) -> Pair | str:
    """The pair, or what is wrong with the line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # the decoder's own words are about the inside of the line
        return "is not JSON"
    if not isinstance(found, dict):
        return "is not a JSON object"
    for key in ("prediction", "reference"):
        if key not in found:
            return f'has no "{key}"'
        if not isinstance(found[key], str):
            return f'has a "{key}" that is not text'
        if HALF_PAIR.search(found[key]):  # no file and no page can hold it
            return f'has half a surrogate pair in its "{key}"'
    return found["prediction"], found["reference"]
