"""How well a text agrees with what the encoder heard by itself: a sign of words that the text model has guessed.

The scale model's encoder has a CTC head for phonemes (`model/phoneme_head.py`). It knows no words, so where speech is
unlike what it was trained on, what it hears and what the text model makes of it part. Two numbers tell: phonemes to be
changed, put in or left out between both, and by how much the text is less likely than the most likely phonemes.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from evoxtral.inference.prompt import Prompt
from evoxtral.inference.sampling import Row
from evoxtral.transcript import Agreement

ACCENTS = ("en-us", "en-gb-x-rp")  # the text is read in the one that agrees better
IMPOSSIBLE = 1e3  # nats, of a text of more symbols than there are states


def judge(rows: Sequence[Row], prompt: Prompt, symbols: Sequence[str], share: float) -> None:
    """Fill `agreement` of the rows that have `heard`, and drop that. share: of the window that has sound."""
    from evoxtral.speech.espeak import Espeak
    from evoxtral.speech.notation import phonemes

    waiting = [row for row in rows if row.heard is not None]
    if not waiting:
        return
    with Espeak() as engine:
        for row in waiting:
            text = "".join(prompt.pieces(row.ids, final=True))
            heard = row.heard[: int(share * len(row.heard)) + 1]
            read = [phonemes(engine, text, accent) for accent in ACCENTS]
            row.agreement = min((agreement(said, heard, symbols) for said in read), key=lambda found: found.wrong)
            row.heard = None


def agreement(said: Sequence[str], heard: np.ndarray, symbols: Sequence[str]) -> Agreement:
    """said: a text's symbols, see `speech/notation.py`. heard: (T, S + 1) log-probabilities, 0 being CTC's blank.
    symbols: those of the outputs from 1 on.
    """
    from rapidfuzz.distance import Levenshtein  # jiwer brings it

    best = heard.argmax(-1)
    changes = best[np.diff(best, prepend=-1) != 0]
    found = [symbols[k - 1] for k in changes if k]
    pair = [[symbol for symbol in side if _is_phoneme(symbol)] for side in (said, found)]
    index = {symbol: k for k, symbol in enumerate(symbols, 1)}
    target = [index[symbol] for symbol in said if symbol in index]
    surprise = _cost(heard, target) + float(heard.max(-1).sum()) if target else 0.0
    return Agreement(Levenshtein.distance(*pair), max(map(len, pair)), round(max(0.0, surprise), 3), len(target))


def _is_phoneme(symbol: str) -> bool:
    from evoxtral.speech.notation import MARKS

    return not symbol.startswith(MARKS)


def _cost(heard: np.ndarray, target: Sequence[int]) -> float:
    """-log of the probability of symbols by all their paths, in nats."""
    rows, lengths = torch.from_numpy(heard)[:, None], (torch.tensor([len(heard)]), torch.tensor([len(target)]))
    cost = F.ctc_loss(rows, torch.tensor([target]), *lengths, reduction="sum").item()
    return min(cost, IMPOSSIBLE)
