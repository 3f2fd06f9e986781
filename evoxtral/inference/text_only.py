"""Tags from the text alone: the words are given, the audio is silence, and the model may put tags between the words.

A control for benchmarks: what is right here is what the words give away, and not what was heard.
"""

from collections.abc import Sequence

import numpy as np
import torch

from evoxtral import tags
from evoxtral.inference.engine import Engine

ROWS = 24  # texts that are decoded together
MAX_TAGS = 3  # in a row: a model that writes nothing else goes on with the words
MAX_TOKENS = 12  # of one tag


class Row:
    """One text on its way: which token comes next, given what the model would write."""

    def __init__(self, words: Sequence[list[int]], pieces, eos_id: int) -> None:
        """words: token ids of each. pieces: token ids → their texts."""
        self.words, self._pieces, self._eos = words, pieces, eos_id
        self.ids: list[int] = []
        self._word = self._token = 0
        self._tag = self._tags = 0  # tokens of the open tag; tags in a row
        self.done = False

    def next(self, best: int) -> int:
        """The token to go on with; the model's own where it opens a tag between words or is inside one."""
        if self.done:
            return self._eos
        piece = self._pieces([best])[0]
        if self._tag:
            self._tag += 1
            token = best if best != self._eos else self._close
            if "]" in self._pieces([token])[0] or self._tag > MAX_TOKENS:
                self._tag, self._tags = 0, self._tags + 1
                token = token if "]" in self._pieces([token])[0] else self._close
        elif self._token == 0 and self._tags < MAX_TAGS and piece.strip().startswith("["):
            token, self._tag = best, int("]" not in piece)
        elif self._word == len(self.words):
            self.done = True
            return self._eos
        else:
            word = self.words[self._word]
            token = word[self._token]
            self._token += 1
            if self._token == len(word):
                self._word, self._token, self._tags = self._word + 1, 0, 0
        self.ids.append(token)
        return token

    _close = 0  # the id of "]", set by `tagged`


@torch.inference_mode()
def tagged(engine: Engine, texts: Sequence[str], variants: Sequence[str] | None = None) -> list[dict[str, str]]:
    """For each text, its words with the tags that each variant puts between them, having heard silence.

    texts: tagged or not; their tags are taken out first. At most ROWS texts at once. Greedy.
    """
    names, prompt = engine.ordered(variants), engine.prompt
    words = [_words(engine, tags.without_tags(text)) for text in texts]
    rows = [Row(one, prompt.pieces, prompt.eos_id) for _ in names for one in words]
    close = prompt.encode("]")[-1]
    for row in rows:
        row._close = close
    longest = max(sum(map(len, one)) for one in words)
    budget = longest + MAX_TOKENS * (MAX_TAGS + max(map(len, words)))
    ids = prompt.transcription_ids()
    log_mel = prompt.log_mel([np.zeros(prompt.window_samples, np.float32)], engine.device)
    with engine._lock, engine._mix.using(names):
        cache = engine._cache((names, len(rows), len(ids) + budget))
        logits = cache.prefill(engine._prompts(ids, log_mel, names))
        for _ in range(budget):
            best = logits.argmax(dim=-1).tolist()
            chosen = [row.next(token) for row, token in zip(rows, best, strict=True)]
            if all(row.done for row in rows):
                break
            logits = cache.step(torch.tensor(chosen, device=engine.device))
    found = ["".join(prompt.pieces(row.ids)).strip() for row in rows]
    return [{name: found[k * len(texts) + i] for k, name in enumerate(names)} for i in range(len(texts))]


def _words(engine: Engine, plain: str) -> list[list[int]]:
    return [engine.prompt.encode(f" {word}" if k else word) for k, word in enumerate(plain.split())]
