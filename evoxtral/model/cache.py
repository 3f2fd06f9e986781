"""The key/value cache of a batch, prefill and decoding steps; on CUDA a step is one captured graph.

Shapes: B rows of a batch, T positions, D width, H query heads, K key/value heads, L length of the cache.
"""

import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from evoxtral.model import threads
from evoxtral.model.attention import FEWEST, fitting, of_a_step
from evoxtral.model.memory import equal_parts, return_freed_memory
from evoxtral.model.text import TextModel

log = logging.getLogger(__name__)

_CHUNK = 192  # positions of a prompt in one prefill chunk on a CPU, about: bounds peak memory
_QUANTIZED_CHUNK = 384  # the same of a quantised model, whose 4-bit weights are expanded again for every chunk
_END_STEP = 512  # positions: how far attention reads on CUDA is a multiple, as every other end is a graph of its own
_WARM_UP = 2  # eager steps before the capture: libraries allocate their workspaces in them


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary embeddings to x (B, heads, T, d). The first half of `sin` is negated already."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def _padded(rows: int) -> int:
    """How many rows a CPU multiplies for so many: oneDNN keeps a kernel of 0.7 MB for each number and layer."""
    step = 1 if rows <= 12 else 4 if rows <= 32 else 8
    return math.ceil(rows / step) * step


def _zeros(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Zeros of the dtype and device of `like`. On a CPU their memory is not touched, as NumPy's comes from `calloc`."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(math.prod(shape) * like.itemsize, np.uint8)).view(like.dtype).view(*shape)


def _attention(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, end: int, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of one query per head, q (B, H, …, d), to the first `end` positions of a cache (B, K, L, d).

    Returns a tensor of q's shape.
    """
    keys, values = keys[:, :, :end], values[:, :, :end]
    # Grouped-query attention: the H / K heads of one key/value head become H / K queries, so that no key is copied.
    grouped = q.reshape(*keys.shape[:2], -1, keys.shape[-1])
    return scaled_dot_product_attention(grouped, keys, values, attn_mask=mask).reshape(q.shape)


class Cache:
    """Keys and values of rows that come and go: `prefill` begins some of them, `step` appends a token to each of the
    first n.

    used: positions written in each row, 0 for a free one.
    """

    def __init__(
        self, text: TextModel, rows: int, length: int, static: bool = False, watched: Sequence[tuple[int, int]] = ()
    ):
        """rows: B, the most.  length: L, the positions of prompt and text together.
        watched: (layer, query head) pairs in order, of which `attention` can tell where each token looked.

        static: give every step of as many rows the same shapes, as a CUDA graph needs: attention then reads more than
        was written, under a mask. Without it, memory beyond what was written is never touched. Always true on CUDA.
        """
        config, like = text.config, text.norm
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, length, config.head_dim)
        self.text, self.rows, self.length = text, rows, length
        self.static = static or like.is_cuda
        self.keys, self.values = (_zeros(shape, like) for _ in range(2))  # masked values must be finite, too
        self._compiled = None if self.static else of_a_step(self.keys)
        self.positions = torch.arange(length, device=like.device)
        cos, sin = text.rotary(like, self.positions[None])
        half = config.head_dim // 2
        self.cos, self.sin = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)
        self.attended, self.masked = like.new_zeros(()), like.new_full((), -torch.inf)  # added to attention scores
        self.used, self._prompt = [0] * rows, [0] * rows
        self.watched = sorted(watched)
        self._watches = {layer: self._watch(layer) for layer in {layer for layer, _ in watched}}
        # Those of a prompt are never written, nor touched in memory, but for its last.
        self._queries = torch.empty(
            rows, length, len(self.watched), config.head_dim, dtype=like.dtype, device=like.device
        )
        self.token = torch.zeros(rows, dtype=torch.long, device=like.device)
        self.position = torch.zeros(rows, dtype=torch.long, device=like.device)  # of the next token
        self._occupied = torch.zeros(rows, dtype=torch.long, device=like.device)  # what a step adds to it
        self._row = torch.arange(rows, device=like.device)
        self._graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}

    @property
    def bytes(self) -> int:
        """Size of keys and values in memory."""
        return self.keys.nbytes + self.values.nbytes

    def prefill(self, prompts: torch.Tensor, rows: Sequence[int] | None = None) -> torch.Tensor:
        """Run the prompts (P, T, D), variant-major, into rows, None for all: each into as many neighbours in `rows`.

        Returns logits (len(rows), vocabulary).
        """
        rows = range(self.rows) if rows is None else rows
        copies = len(rows) // len(prompts)
        firsts = rows[::copies]
        if prompts.device.type == "cuda":
            last = self._prefill(prompts, torch.tensor(firsts, device=prompts.device))
        else:
            # A batch saves no time here, and its activations would dominate peak memory: each prompt by itself.
            mix, active = self.text.mix, self.text.mix.active

            def begin(i: int) -> torch.Tensor:
                with mix.using((active[i * len(active) // len(prompts)],)):
                    return self._prefill(prompts[i : i + 1], slice(firsts[i], firsts[i] + 1))

            last = torch.cat(threads.each(begin, range(len(prompts)), not self.text.quantized))
        for i, row in enumerate(rows):
            self._occupy(row, prompts.shape[1], prompts.shape[1])
            if i % copies:
                self._copy(self, firsts[i // copies], row)
        return self.text.logits(last).repeat_interleave(copies, dim=0)

    def _prefill(self, prompts: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        """Run prompts (P, T, D), each into its row. Returns the last positions, (P, 1, D).

        On a CPU one prompt in chunks of positions, each through all layers before the next. Of the last layer nothing
        is needed but keys and values, and the last position.
        """
        end, chunk = 0, _QUANTIZED_CHUNK if self.text.quantized else _CHUNK
        for x in equal_parts(prompts, chunk if prompts.device.type == "cpu" else sys.maxsize, dim=1):
            start, end = end, end + x.shape[1]
            rotate, mask = partial(_rotate, cos=self.cos[start:end], sin=self.sin[start:end]), None
            if start:  # a chunk also attends to all earlier chunks
                seen = self.positions[:end] <= self.positions[start:end, None]
                mask = torch.where(seen, self.attended, self.masked)
            for layer, block in enumerate(self.text.blocks):
                last = block is self.text.blocks[-1]
                causal = not start and not last

                def attend(
                    q, k, v, layer=layer, start=start, end=end, mask=None if last else mask, causal=causal, last=last
                ):
                    if layer in self._watches and end == prompts.shape[1]:
                        slots, heads = self._watches[layer]
                        self._queries[rows, end - 1, slots] = q[:, :, -1].index_select(1, heads)
                    keys, values = self.keys[layer], self.values[layer]
                    keys[rows, :, start:end], values[rows, :, start:end] = k, v
                    if start:
                        k, v = keys[rows, :, :end], values[rows, :, :end]
                    if not last and (ours := fitting(q)):
                        return ours[0](q, k, v, causal=True)
                    return scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=True)

                x = block(x, rotate, attend, last)
            if prompts.device.type == "cpu":
                return_freed_memory()  # too fragmented for the next chunk to reuse
        return x[:, -1:].clone()  # a view would keep the whole chunk in memory

    def _occupy(self, row: int, used: int, prompt: int) -> None:
        self.used[row], self._prompt[row] = used, prompt
        self.position[row], self._occupied[row] = used, int(used > 0)

    def release(self, row: int) -> None:
        """Make a row free."""
        self._occupy(row, 0, 0)

    def move(self, source: int, target: int) -> None:
        """Move a row to a free one."""
        self._copy(self, source, target)
        self.release(source)

    def _copy(self, other: "Cache", source: int, target: int) -> None:
        used, prompt = other.used[source], other._prompt[source]
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[:, target, :, :used] = theirs[:, source, :, :used]
        self._queries[target, prompt - 1 : used] = other._queries[source, prompt - 1 : used]
        self.token[target] = other.token[source]
        self._occupy(target, used, prompt)

    def larger(self, rows: int, length: int) -> "Cache":
        """A cache of more rows or positions with the same contents. It has to capture its graphs again."""
        cache = Cache(self.text, rows, length, self.static, self.watched)
        for row, used in enumerate(self.used):
            if used:
                cache._copy(self, row, row)
        return cache

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Append a token (n,) to each of the first n rows; what is appended to a free row is nothing.

        Returns logits (n, vocabulary), which the next step overwrites on CUDA.
        """
        count = len(token)
        self.token[:count].copy_(token)
        end = max(self.used[:count]) + 1
        if self.static:
            end = min(self.length, math.ceil(end / _END_STEP) * _END_STEP)
        logits = self._replayed(count, end) if self.token.is_cuda else self._step(count, end)
        self.position[:count].add_(self._occupied[:count])
        self.used[:count] = [used + (used > 0) for used in self.used[:count]]
        return logits

    def _step(self, count: int, end: int) -> torch.Tensor:
        """One step of the first `count` rows, whose attention reads the first `end` positions."""
        attention = self._looking(count, end)
        x = self.text.embedded(self.token[:count])
        if self.text.kernels:
            return self._by_kernels(x, attention)
        return self._by_pytorch(x, attention)

    def _looking(self, count: int, end: int) -> Callable[..., torch.Tensor]:
        """The attention of one step: queries (n, H, …, d), keys and values (n, K, L, d) -> as the queries."""
        lengths = [used + 1 for used in self.used[:count]]
        if self._compiled and min(lengths) >= FEWEST:
            lengths = torch.tensor(lengths)
            return lambda q, keys, values: self._compiled(q.flatten(1, -2), keys, values, lengths).view(q.shape)
        mask = None
        if self.static or min(lengths) < end:
            seen = self.positions[:end] <= self.position[:count, None]
            mask = torch.where(seen, self.attended, self.masked)[:, None, None]  # (n, 1, 1, end)
        return partial(_attention, end=end, mask=mask)

    def _by_pytorch(self, x: torch.Tensor, attention: Callable[..., torch.Tensor]) -> torch.Tensor:
        count, wide = len(x), len(x) if self.static else _padded(len(x))
        rows, position = self._row[:count], self.position[:count]
        more = (0, 0, 0, wide - count)  # rows, as `pad` has it
        cos, sin = (pad(table[position], more)[:, None, None] for table in (self.cos, self.sin))  # (rows, 1, 1, d)
        rotate = partial(_rotate, cos=cos, sin=sin)
        x = pad(x, more)[:, None]
        for layer, (block, keys, values) in enumerate(zip(self.text.blocks, self.keys, self.values, strict=True)):

            def attend(q, k, v, keys=keys, values=values, layer=layer):
                self._keep(layer, q[:count, :, 0])
                keys[rows, :, position], values[rows, :, position] = k[:count, :, 0], v[:count, :, 0]
                return pad(attention(q[:count], keys[:count], values[:count]), (0, 0, 0, 0, *more))

            x = block(x, rotate, attend)
        return self.text.logits(x[:count])

    def _by_kernels(self, x: torch.Tensor, attention: Callable[..., torch.Tensor]) -> torch.Tensor:
        kernels, rotate, count = self.text.kernels, (self.cos, self.sin), len(x)
        first, *others = [block.attention_norm for block in self.text.blocks]
        stream = kernels.begin(x, first)
        caches = ((keys[:count], values[:count]) for keys, values in zip(self.keys, self.values, strict=True))
        layers = zip(self.text.blocks, caches, [*others, self.text.norm], strict=True)
        for layer, (block, (keys, values), following) in enumerate(layers):

            def attend(q, keys=keys, values=values, layer=layer):
                self._keep(layer, q)
                return attention(q, keys=keys, values=values)

            position = self.position[:count]
            stream = block.step(kernels, stream, following, rotate, position, keys, values, attend)
        return self.text.logits(stream.x[:, None])

    def _watch(self, layer: int) -> tuple[slice, torch.Tensor]:
        """Where the queries of a layer's watched heads are kept, and which heads they are."""
        slots = [slot for slot, (other, _) in enumerate(self.watched) if other == layer]
        heads = torch.tensor([self.watched[slot][1] for slot in slots], device=self.positions.device)
        return slice(slots[0], slots[-1] + 1), heads

    def _keep(self, layer: int, q: torch.Tensor) -> None:
        """Keep the queries (n, H, d) of a step's watched heads."""
        if layer in self._watches:
            slots, heads = self._watches[layer]
            self._queries[self._row[: len(q)], self.position[: len(q)], slots] = q.index_select(1, heads)

    def attention(self, row: int, count: int, positions: slice) -> Iterator[torch.Tensor]:
        """Of each of `watched` in turn, where the queries that predict the first `count` tokens of a row's text look:
        (count, positions), float32, shares of the attention to these positions."""
        queries = self._queries[row, self._prompt[row] - 1 :][:count].float() * self._queries.shape[-1] ** -0.5
        group = self.text.config.num_attention_heads // self.text.config.num_key_value_heads
        for slot, (layer, head) in enumerate(self.watched):
            keys = self.keys[layer, row, head // group, positions].float()
            yield (queries[:, slot] @ keys.mT).softmax(dim=-1)

    def _replayed(self, count: int, end: int) -> torch.Tensor:
        """`_step` as a CUDA graph, captured once for these shapes and variants."""
        key = self.text.mix.active, count, end
        if key not in self._graphs:
            self._graphs[key] = self._captured(count, end)
        graph, logits = self._graphs[key]
        graph.replay()
        return logits

    def _captured(self, count: int, end: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """Record one step as a CUDA graph. What the warm-up steps write is overwritten by the replay."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._warm_up(count, end)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may allocate meanwhile, as they do for clips of their own.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            logits = self._step(count, end)
        return graph, logits

    def _warm_up(self, count: int, end: int) -> None:
        """One eager step. If the Triton kernels cannot be built, this step and all later ones use PyTorch alone.

        Building needs a C compiler, and a device of compute capability 8.0: on an older one Triton aborts the process.
        """
        if self.text.kernels and self.token.is_cuda and torch.cuda.get_device_capability() < (8, 0):
            self.text.kernels = None
        try:
            self._step(count, end)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self.text.kernels is None:
                raise
            log.warning("Steps are slower than they could be: Triton cannot build our kernels here (%s)", error)
            self.text.kernels = None
            self._step(count, end)
