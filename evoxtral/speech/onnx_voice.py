"""Shared code of voices that are ONNX models: phoneme durations, and espeak-ng's phonemes by word."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from evoxtral.speech.espeak import Espeak

MARKS = ",.!?;:…—"  # that a model reads as a pause or a melody
_TAIL = re.compile(f"[{MARKS}]")


def session(model: Path, durations: str):
    """An onnxruntime session that gives one more output, the inner node called `durations`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    options.log_severity_level = 3
    data = model.read_bytes() + _output(durations)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _output(name: str) -> bytes:
    """A partial ONNX ModelProto: graph (7) with an output (12) of this name (1), a float tensor (2: 1: 1: FLOAT).

    Protocol buffers that are written one after another are merged when they are read, so this adds an output.
    """

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    return field(7, field(12, field(1, name.encode()) + field(2, field(1, b"\x08\x01"))))


def spoken(engine: Espeak, words: list[str], language: str, spelled: Callable[[str], str]) -> list[str]:
    """Each word's phonemes, and the mark that follows it.

    spelled: from espeak-ng's IPA (see `Espeak.ipa`) to the model's own letters. What espeak-ng says in one ("of the")
    is cut where the pieces are most like what each word is alone.
    """
    said = [spelled(group) for group in engine.ipa(" ".join(words), language)]
    alone = ["".join(map(spelled, engine.ipa(word, language))) for word in words]
    out = []
    for word, sound in zip(words, _shared(said, alone), strict=True):
        end = word.replace("...", "…")
        tail = "".join(_TAIL.findall(end[len(end.rstrip("\"')]" + MARKS)) :]))[:1]
        out.append(sound + tail)
    return out


def _shared(said: list[str], alone: list[str]) -> list[str]:
    """The sounds of each word, given espeak-ng's own words and what each word is by itself: the cheapest pairing in
    which a word has one or more of its words, or several words share one. A shared one is written at the first.
    """
    from rapidfuzz.distance import Levenshtein  # jiwer brings it

    n, m = len(alone), len(said)
    best: dict[tuple[int, int], tuple[float, tuple[int, int]]] = {(0, 0): (0.0, (0, 0))}
    steps = [(0, 1), (1, 0), *((1, k) for k in range(1, 9)), *((k, 1) for k in range(2, 5))]
    for i in range(n + 1):
        for j in range(m + 1):
            if (i, j) not in best:
                continue
            for di, dj in steps:
                at = i + di, j + dj
                if at[0] > n or at[1] > m:
                    continue
                cost = best[i, j][0] + Levenshtein.distance("".join(alone[i : at[0]]), "".join(said[j : at[1]]))
                cost += 0.1 * (di + dj - 2) if di and dj else 3
                if at not in best or cost < best[at][0]:
                    best[at] = cost, (i, j)
    out = [""] * n
    at = n, m
    while at != (0, 0):
        i, j = best[at][1]
        sound = "".join(said[j : at[1]])
        if at[0] > i:
            for k, part in zip(range(i, at[0]), _split(sound, alone[i : at[0]]), strict=True):
                out[k] = part
        elif out and i < n:
            out[i] = sound + out[i]
        elif out:
            out[i - 1] += sound
        at = i, j
    return out


def _split(sound: str, alone: list[str]) -> list[str]:
    """One sound over several words: cut where the pieces are most like what each word is alone."""
    from rapidfuzz.distance import Levenshtein

    if len(alone) == 1:
        return [sound]
    cut = min(
        range(len(sound) + 1),
        key=lambda at: (
            Levenshtein.distance(sound[:at], alone[0]) + Levenshtein.distance(sound[at:], "".join(alone[1:])),
            sound[at : at + 1] in "ˈˌ",  # a stress mark belongs to what follows
        ),
    )
    return [sound[:cut], *_split(sound[cut:], alone[1:])]
