"""The key/value cache of a batch, prefill and decoding steps; on CUDA a step is one captured graph.

Shapes: B rows of a batch, T positions, D width, H query heads, K key/value heads, L length of the cache.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from evoxtral.model.memory import equal_parts, return_freed_memory
from evoxtral.model.text import TextModel

log = logging.getLogger(__name__)

_CHUNK = 96  # positions of a prompt in one prefill chunk on a CPU, about: bounds peak memory
_QUANTIZED_CHUNK = 384  # the same of a quantised model, whose 4-bit weights are expanded again for every chunk
_WARM_UP = 2  # eager steps before the capture: libraries allocate their workspaces in them


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary embeddings to x (B, heads, T, d). The first half of `sin` is negated already."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


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
    """The key/value cache of one batch: `prefill` once, then `step` per token. It can be reused by the next batch."""

    def __init__(
        self, text: TextModel, rows: int, length: int, static: bool = False, watched: Sequence[tuple[int, int]] = ()
    ):
        """rows: B.  length: L, the positions of prompt and text together.
        watched: (layer, query head) pairs in order, of which `attention` can tell where each token looked.

        static: give every step the same shapes, as a CUDA graph needs: attention then reads the whole cache under a
        mask. Without it, attention reads only the positions written so far, and the rest of the memory is never
        touched. Always true on CUDA.
        """
        config, like = text.config, text.norm
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, length, config.head_dim)
        self.text, self.rows, self.length = text, rows, length
        self.static = static or like.is_cuda
        make = torch.zeros if self.static else torch.empty  # masked values must be finite, too
        self.keys, self.values = (make(shape, dtype=like.dtype, device=like.device) for _ in range(2))
        self.positions = torch.arange(length, device=like.device)
        cos, sin = text.rotary(like, self.positions[None])
        half = config.head_dim // 2
        self.cos, self.sin = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)
        self.attended, self.masked = like.new_zeros(()), like.new_full((), -torch.inf)  # added to attention scores
        self.used = self.prompt = 0  # positions: all that are written, and those of the prompt
        self.watched = sorted(watched)
        self._watches = {layer: self._watch(layer) for layer in {layer for layer, _ in watched}}
        # Position first: those of the prompt are never written, nor touched in memory, but for its last.
        self._queries = torch.empty(
            length, rows, len(self.watched), config.head_dim, dtype=like.dtype, device=like.device
        )
        self.token = torch.zeros(rows, dtype=torch.long, device=like.device)
        self.position = torch.zeros(1, dtype=torch.long, device=like.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._graph_logits: torch.Tensor | None = None

    @property
    def bytes(self) -> int:
        """Size of keys and values in memory."""
        return self.keys.nbytes + self.values.nbytes

    def prefill(self, prompts: torch.Tensor) -> torch.Tensor:
        """Run the prompts (P, T, D), each shared by rows / P consecutive rows. Returns logits (B, vocabulary)."""
        copies = self.rows // len(prompts)
        self.used = self.prompt = prompts.shape[1]
        if prompts.device.type == "cuda":
            return self.text.logits(self._prefill(prompts, 0, copies)).repeat_interleave(copies, dim=0)
        # On a CPU a batch saves no time here, and its activations would dominate peak memory: one prompt at a time.
        last, mix = [], self.text.mix
        for i, prompt in enumerate(prompts):
            with mix.using((mix.active[i * len(mix.active) // len(prompts)],)):
                last.append(self._prefill(prompt[None], i * copies, copies))
        return self.text.logits(torch.cat(last)).repeat_interleave(copies, dim=0)

    def _prefill(self, prompts: torch.Tensor, first: int, copies: int) -> torch.Tensor:
        """Run prompts (P, T, D), each for `copies` rows from row `first` on. Returns the last positions, (P, 1, D).

        On a CPU in chunks of positions, each through all layers before the next.
        """
        rows, one_of_each = slice(first, first + len(prompts) * copies), slice(None, None, copies)
        end, chunk = 0, _QUANTIZED_CHUNK if self.text.quantized else _CHUNK
        for x in equal_parts(prompts, chunk if prompts.device.type == "cpu" else sys.maxsize, dim=1):
            start, end = end, end + x.shape[1]
            rotate, mask = partial(_rotate, cos=self.cos[start:end], sin=self.sin[start:end]), None
            if start:  # a chunk also attends to all earlier chunks
                seen = self.positions[:end] <= self.positions[start:end, None]
                mask = torch.where(seen, self.attended, self.masked)
            for layer, block in enumerate(self.text.blocks):
                keys, values = self.keys[layer, rows, :, :end], self.values[layer, rows, :, :end]

                def attend(q, k, v, keys=keys, values=values, start=start, end=end, mask=mask, layer=layer):
                    if layer in self._watches and end == prompts.shape[1]:
                        slots, heads = self._watches[layer]
                        self._queries[end - 1, rows, slots] = (
                            q[:, :, -1].index_select(1, heads).repeat_interleave(copies, dim=0)
                        )
                    keys.unflatten(0, (-1, copies))[:, :, :, start:] = k[:, None]
                    values.unflatten(0, (-1, copies))[:, :, :, start:] = v[:, None]
                    keys, values = keys[one_of_each], values[one_of_each]
                    return scaled_dot_product_attention(q, keys, values, mask, is_causal=not start, enable_gqa=True)

                x = block(x, rotate, attend)
            if prompts.device.type == "cpu":
                return_freed_memory()  # too fragmented for the next chunk to reuse
        return x[:, -1:].clone()  # a view would keep the whole chunk in memory

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Append a token (B,) to every row. Returns logits (B, vocabulary), which the next step overwrites on CUDA."""
        self.token.copy_(token)
        self.position.fill_(self.used)
        self.used += 1
        if self.token.device.type != "cuda":
            return self._step()
        if self._graph is None:
            self._capture()
        self._graph.replay()
        return self._graph_logits

    def _step(self) -> torch.Tensor:
        x = self.text.embedded(self.token)
        end, mask = self.used, None
        if self.static:
            seen = self.positions <= self.position
            end, mask = self.length, torch.where(seen, self.attended, self.masked)[None, None, None]  # (1, 1, 1, L)
        attention = partial(_attention, end=end, mask=mask)
        return self._by_kernels(x, attention) if self.text.kernels else self._by_pytorch(x[:, None], attention)

    def _by_pytorch(self, x: torch.Tensor, attention: Callable[..., torch.Tensor]) -> torch.Tensor:
        rotate = partial(_rotate, cos=self.cos[self.position], sin=self.sin[self.position])
        for layer, (block, keys, values) in enumerate(zip(self.text.blocks, self.keys, self.values, strict=True)):

            def attend(q, k, v, keys=keys, values=values, layer=layer):
                self._keep(layer, q[:, :, 0])
                keys.index_copy_(2, self.position, k)
                values.index_copy_(2, self.position, v)
                return attention(q, keys, values)

            x = block(x, rotate, attend)
        return self.text.logits(x)

    def _by_kernels(self, x: torch.Tensor, attention: Callable[..., torch.Tensor]) -> torch.Tensor:
        kernels, rotate = self.text.kernels, (self.cos, self.sin)
        first, *others = [block.attention_norm for block in self.text.blocks]
        stream = kernels.begin(x, first)
        layers = zip(self.text.blocks, self.keys, self.values, [*others, self.text.norm], strict=True)
        for layer, (block, keys, values, following) in enumerate(layers):

            def attend(q, keys=keys, values=values, layer=layer):
                self._keep(layer, q)
                return attention(q, keys=keys, values=values)

            stream = block.step(kernels, stream, following, rotate, self.position, keys, values, attend)
        return self.text.logits(stream.x[:, None])

    def _watch(self, layer: int) -> tuple[slice, torch.Tensor]:
        """Where the queries of a layer's watched heads are kept, and which heads they are."""
        slots = [slot for slot, (other, _) in enumerate(self.watched) if other == layer]
        heads = torch.tensor([self.watched[slot][1] for slot in slots], device=self.positions.device)
        return slice(slots[0], slots[-1] + 1), heads

    def _keep(self, layer: int, q: torch.Tensor) -> None:
        """Keep the queries (B, H, d) of a step's watched heads."""
        if layer in self._watches:
            slots, heads = self._watches[layer]
            self._queries[:, :, slots].index_copy_(0, self.position, q.index_select(1, heads)[None])

    def attention(self, rows: slice, count: int, positions: slice) -> Iterator[torch.Tensor]:
        """Of each of `watched` in turn, where the queries that predict the first `count` tokens of the text look:
        (rows, count, positions), float32, shares of the attention to these positions."""
        queries = self._queries[self.prompt - 1 :][:count, rows].float() * self._queries.shape[-1] ** -0.5
        group = self.text.config.num_attention_heads // self.text.config.num_key_value_heads
        for slot, (layer, head) in enumerate(self.watched):
            keys = self.keys[layer, rows, head // group, positions].float()
            yield (queries[:, :, slot].transpose(0, 1) @ keys.mT).softmax(dim=-1)

    def _capture(self) -> None:
        """Record one step as a CUDA graph. What the warm-up steps write is overwritten by the replay."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._warm_up()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may allocate meanwhile, as log-mels are computed outside the lock.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._graph_logits = self._step()

    def _warm_up(self) -> None:
        """One eager step. If the Triton kernels cannot be built, this step and all later ones use PyTorch alone.

        Building needs a C compiler, and a device of compute capability 8.0: on an older one Triton aborts the process.
        """
        if self.text.kernels and self.token.is_cuda and torch.cuda.get_device_capability() < (8, 0):
            self.text.kernels = None
        try:
            self._step()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self.text.kernels is None:
                raise
            log.warning("Steps are slower than they could be: Triton cannot build our kernels here (%s)", error)
            self.text.kernels = None
            self._step()
