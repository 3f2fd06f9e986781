"""Tags from the text alone: the words are given, the audio is silence, and the model may put tags between the words.

A control for benchmarks: what is right here is what the words give away, and not what was heard.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from evoxtral import tags
from evoxtral.inference.engine import Engine
from evoxtral.model.cache import Cache

ROWS = 24  # texts that are decoded together
MAX_TAGS, MAX_IN_ALL = 3, 12  # in a row, and in a text: a model that writes nothing else goes on with the words
MAX_TOKENS = 12  # of one tag


class Row:
    """One text on its way: which token comes next, given what the model would write."""

    def __init__(
        self, words: Sequence[list[int]], pieces: Callable[[list[int]], list[str]], eos_id: int, close: int
    ) -> None:
        """words: token ids of each.  pieces: token ids → their texts.  close: the id of "]"."""
        self.words, self._pieces, self._eos, self._close = words, pieces, eos_id, close
        self.ids: list[int] = []
        self._word = self._token = 0
        self._tag = self._tags = self._all = 0  # tokens of the open tag; tags in a row; all tags
        self.done = False

    @property
    def _may_open(self) -> bool:
        return self._token == 0 and self._tags < MAX_TAGS and self._all < MAX_IN_ALL

    def next(self, best: int) -> int:
        """The token to go on with; the model's own where it opens a tag between words or is inside one."""
        if self.done:
            return self._eos
        piece = self._pieces([best])[0]
        if self._tag:
            self._tag += 1
            token = best if best != self._eos and self._tag < MAX_TOKENS else self._close
            if "]" in self._pieces([token])[0]:
                self._tag, self._tags = 0, self._tags + 1
        elif self._may_open and piece.strip().startswith("["):
            token, self._all = best, self._all + 1
            self._tag, self._tags = (0, self._tags + 1) if "]" in piece else (1, self._tags)
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


@torch.inference_mode()
def tagged(engine: Engine, texts: Sequence[str], variants: Sequence[str] | None = None) -> list[dict[str, str]]:
    """For each text, its words with the tags that each variant puts between them, having heard silence.

    texts: tagged or not; their tags are taken out first. At most ROWS texts at once. Greedy.
    """
    names, prompt = engine.ordered(variants), engine.prompt
    words = [_words(engine, tags.without_tags(text)) for text in texts]
    close = prompt.encode("]")[-1]
    rows = [Row(one, prompt.pieces, prompt.eos_id, close) for _ in names for one in words]
    budget = max(sum(map(len, one)) for one in words) + MAX_TOKENS * MAX_IN_ALL + 1
    ids = prompt.transcription_ids()
    log_mel = prompt.log_mel([np.zeros(prompt.window_samples, np.float32)], engine.device)
    with engine._lock, engine._mix.using(names):
        cache = Cache(engine._text, len(rows), len(ids) + budget)
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
