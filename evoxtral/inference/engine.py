"""The engine: audio in, transcripts out. The page, the command line, the API, the benchmark and RAFT all use it.

All variants of all segments of all requests are decoded together, see `scheduler`. All variants share the log-mels.
Variants whose adapters do not change the encoder also share its output.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import torch
from transformers import VoxtralConfig

from evoxtral import audio, confidence
from evoxtral.errors import CheckpointError, DeviceFullError, EvoxtralError
from evoxtral.inference import agreement, alignment
from evoxtral.inference.prompt import Prompt
from evoxtral.inference.sampling import Decoding, Row, uniform_draws
from evoxtral.inference.scheduler import Request, Scheduler, Window
from evoxtral.inference.streaming import Clock, GrowingTranscript, cue_of
from evoxtral.model import backends, checkpoints, duration, hub, lora, phoneme_head, precision, quantized_files
from evoxtral.model.cache import Cache
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.model.encoder import Encoder
from evoxtral.model.linear import Mix, wait_for_quantized
from evoxtral.model.memory import freed_memory_returned
from evoxtral.model.text import TextModel
from evoxtral.transcript import Transcript

log = logging.getLogger(__name__)

OUT_OF_MEMORY = "The device has no memory left for this clip: try a shorter one or fewer variants, or try again later."
MODEL_TOO_LARGE = "{} does not fit the memory that is free on {}: choose a larger device, or the model tiny."
BATCH_MEMORY = {"cuda": 12e9, "cpu": 2e9}  # bytes for the rows of one batch
MAX_FREE_SHARE = 0.4  # at most this share of a CUDA device's free memory: a growing cache is there twice for a moment
MAX_ROWS = 96  # that are decoded together
TURN_GAP = 1.0  # s of silence that end the turn of a speaker with a channel of their own
LONG_WAIT = 10.0  # s for a short clip and one variant, from which on one variant is shown before the others


class Engine:
    """One base in memory, and its adapters. Threads may share it: what they ask is decoded together.

    checkpoint, config, variants, window_seconds (longest segment), device, precision, dtype (of weights that are not
    quantised), activations (their dtype), prompt, rows, scheduler: read-only.  heads: those that tell when words
    sound, see `alignment`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        rows: int | None = None,
        on_progress: Callable[[str], None] | None = None,
    ):
        """Load a checkpoint.

        device: "cuda" or "cpu", None for CUDA where there is one.  dtype: of the weights; None for what
        `precision.choose` makes of the checkpoint's `weights`.  rows: limit on the rows of a batch, None for what
        fits BATCH_MEMORY.  on_progress: see `hub.fetch`.  Raises CheckpointError.
        """
        references = checkpoint.base, *checkpoint.adapters.values()
        folder, *adapters = [hub.fetch(reference, on_progress=on_progress) for reference in references]
        config = checkpoints.load_config(folder)
        self.checkpoint = checkpoint
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        asked = checkpoint.weights if dtype is None else precision.NAMES[dtype]
        self.precision = precision.choose(asked, folder, self.device)
        self.dtype = self.precision.dtype
        self.activations = backends.activations(self.dtype, self.device)
        self.prompt = Prompt(folder, config, checkpoint.window)
        self.calibration = confidence.load(folder)
        text = config.text_config
        self.heads = alignment.load((folder, *adapters), text.num_hidden_layers, text.num_attention_heads)
        if not self.heads.heads:
            log.info("%s has no %s: times of words are estimates", checkpoint.name, alignment.FILE)
        self.config, self._rows = config, rows
        self.window_seconds = self.prompt.window_seconds
        too_large = CheckpointError(MODEL_TOO_LARGE.format(checkpoint.name, self.device.type))
        with freed_memory_returned(), _memory_or(too_large):
            self._load(folder, dict(zip(checkpoint.adapters, adapters, strict=True)))
        self._lock = threading.Lock()  # held while the model runs
        self.scheduler = Scheduler(self)
        how = f"{self.precision.weights} ({self.precision.reason})"
        log.info("%s in %s on %s: %s", checkpoint.name, how, self.device, ", ".join(self.variants))

    @cached_property
    def rows(self) -> int:
        """Limit on the rows of a batch. Computed on first use: on ZeroGPU there is no device before."""
        if self._rows:
            return self._rows
        room = BATCH_MEMORY[self.device.type]
        if self.device.type == "cuda":
            room = min(room, MAX_FREE_SHARE * torch.cuda.mem_get_info(self.device)[0])
        return _rows_that_fit(room, self.config, self.prompt, self.activations)

    def _load(self, folder: Path, adapter_folders: dict[str, Path]) -> None:
        """Load the weights onto the device layer by layer, so that the base is never in memory twice."""
        if self.precision.quantized:
            model = quantized_files.load(folder, self.precision.weights, self.dtype)
        else:
            model = checkpoints.load_base(folder, self.dtype, mapped=self.device.type == "cuda")
        positions = model.model.audio_tower.embed_positions
        positions.weight = torch.nn.Parameter(positions.weight[: self.prompt.positions].clone(), requires_grad=False)
        read = partial(lora.read, model=model, dtype=self.activations, stays=self.precision.quantized)
        with ThreadPoolExecutor() as pool:
            adapters = list(pool.map(lambda own: read(own[1], name=own[0]), adapter_folders.items()))
        self._mix = Mix(adapters)
        self.variants = self._mix.variants
        known = phoneme_head.read(folder)
        if known and known[1].in_features != self.config.audio_config.hidden_size:
            raise CheckpointError(f"{folder / phoneme_head.FILE} is not of this model: its encoder has another width.")
        self.symbols = tuple(known[0]) if known else ()
        # The text model first: it takes most of the adapters' matrices, which bounds peak memory.
        self._text = TextModel(model, adapters, self._mix, self.device)
        self._encoder = Encoder(model, adapters, self._mix, self.device, known[1] if known else None)
        for module in (self._text, self._encoder):
            wait_for_quantized(module)

    def stream(
        self,
        source: audio.Source | audio.Recording,
        variants: Sequence[str] | None = None,
        language: str | None = "en",
        decoding: Decoding | None = None,
        max_seconds: float = audio.MAX_SECONDS,
        gone: Callable[[], bool] = lambda: False,
        client: Hashable = None,
        first: str | None = None,
    ) -> Iterator[dict[str, Transcript]]:
        """Transcribe a clip, giving growing transcripts of every variant; the last ones have done=True.

        source: path, bytes, (rate in Hz, array), or a recording that was read.  variants: None for all.
        language: ISO 639-1 code, None to detect.  max_seconds: longest clip accepted.  gone: whether nobody waits any
        more; asked before every step, from another thread.  client: who asks; clients take turns, whatever each asks.
        first: a variant that is decoded to its end, and has done=True, before the others begin; see `shown_first`.
        Raises AudioError, EvoxtralError for an unknown variant or language, and Abandoned for who is gone.
        """
        selected = self.ordered(variants)
        self.prompt.transcription_ids(language)  # raises for an unknown language before any work is done
        decoding = _seeded(decoding or Decoding())
        recording = source if isinstance(source, audio.Recording) else audio.read(source, max_seconds)
        waveform = audio.levelled(recording.waveform)
        segments = self.segments(waveform, TURN_GAP if recording.channel else None)
        waveforms = [segment.of(waveform) for segment in segments]
        growing = {name: GrowingTranscript(audio.duration(waveform), segments) for name in selected}
        about = {name: getattr(recording, name) for name in ("incomplete", "notes", "track", "channel")}
        clock, ended = Clock(), set()

        def told() -> dict[str, Transcript]:
            found = {name: one.snapshot(self.prompt, done=name in ended) for name, one in growing.items()}
            return found | {name: replace(self.calibration.judged(found[name]), **about) for name in ended}

        for turn in _turns(selected, first):
            request = self._request(waveforms, turn, language, decoding, range(len(segments)), gone=gone)
            request.client = client or request.client
            for windows in self._decode(request, lambda: clock.until_update) if segments else ():
                for k, name in enumerate(turn):
                    growing[name].update([window.rows[k] for window in windows], clock.elapsed)
                if not request.done.is_set() and clock.update_due:
                    with clock.paused():
                        yield told()
            ended |= {*turn}
            with clock.paused():
                yield told()

    def shown_first(self, variants: Sequence[str] | None = None) -> str | None:
        """The variant that whoever reads along should get before the others, the last of several; None where all of
        them together are there soon.

        Alone it comes in little more than half of the time (docs/speed.md). The others come later than together, as
        their steps read the weights again.
        """
        selected = self.ordered(variants)
        return selected[-1] if len(selected) > 1 and self.seconds > LONG_WAIT else None

    def segments(self, waveform: np.ndarray, max_pause: float | None = None) -> list[audio.Segment]:
        """The stretches of a levelled waveform (T,) that are decoded, each in one window.

        max_pause: s of silence that always divide; None for what the model hears through.
        """
        return audio.segments(waveform, self.window_seconds, max_pause or self.prompt.max_pause)

    @cached_property
    def seconds(self) -> float:
        """About how long one variant takes for a clip of 5 s on this CPU; 0 for small models, and on a GPU."""
        return duration.clip_seconds(self.config) if self.large and self.device.type == "cpu" else 0.0

    @property
    def large(self) -> bool:
        """Whether its text model has so many weights that a CPU takes seconds for a clip."""
        return duration.work(self.config)[1] >= precision.LARGE_MODEL / 2

    def compare(
        self,
        source: audio.Source | audio.Recording,
        variants: Sequence[str] | None = None,
        language: str | None = "en",
        decoding: Decoding | None = None,
        max_seconds: float = audio.MAX_SECONDS,
    ) -> dict[str, Transcript]:
        """Transcripts of a clip by every asked variant, in the order of `self.variants`; see `stream`."""
        *_, last = self.stream(source, variants, language, decoding, max_seconds)
        return last

    def transcribe(
        self,
        source: audio.Source | audio.Recording,
        variant: str | None = None,
        language: str | None = "en",
        decoding: Decoding | None = None,
        max_seconds: float = audio.MAX_SECONDS,
    ) -> Transcript:
        """The transcript of a clip by one variant, None for the last; see `stream`."""
        name = self.variants[-1] if variant is None else variant
        return self.compare(source, (name,), language, decoding, max_seconds)[name]

    def batch(
        self,
        waveforms: Sequence[np.ndarray],
        variants: Sequence[str] | None = None,
        language: str | None = "en",
        decoding: Decoding | None = None,
        samples: int = 1,
    ) -> list[dict[str, list[Transcript]]]:
        """Transcribe many short clips: for each, `samples` transcripts of every variant.

        waveforms: (T,) float32 at 16 kHz, each of at most `window_seconds`. A waveform is encoded and its prompt is
        read once, whatever the number of samples. A transcript's `elapsed` is its clip's share of its batch.
        """
        results: list = [None] * len(waveforms)
        for i, transcripts in self.stream_batch(waveforms, variants, language, decoding, samples):
            results[i] = transcripts
        return results

    def stream_batch(
        self,
        waveforms: Sequence[np.ndarray],
        variants: Sequence[str] | None = None,
        language: str | None = "en",
        decoding: Decoding | None = None,
        samples: int = 1,
    ) -> Iterator[tuple[int, dict[str, list[Transcript]]]]:
        """Like `batch`, but each result as soon as it is done, with the index of its waveform; in any order."""
        selected = self.ordered(variants)
        decoding = decoding or Decoding()
        # The longest first: at the end few rows are left, and these should not have long to go.
        spoken = [i for i, waveform in enumerate(waveforms) if not audio.is_silent(waveform)]
        spoken.sort(key=lambda i: len(waveforms[i]), reverse=True)
        for i in {*range(len(waveforms))} - {*spoken}:
            yield i, {name: [_empty(waveforms[i])] * samples for name in selected}
        if not spoken:
            return
        request = self._request([waveforms[i] for i in spoken], selected, language, decoding, spoken, samples)
        request.growing = False
        told: set[int] = set()
        for windows in self._decode(request):
            for i, window in zip(spoken, windows, strict=True):
                if window.done and i not in told:
                    told.add(i)
                    copies = zip(selected, _blocks(window.rows, len(selected)), strict=True)
                    yield i, {name: [self._short(window, row) for row in rows] for name, rows in copies}

    def _short(self, window: Window, row: Row) -> Transcript:
        length = audio.duration(window.waveform)
        cue = cue_of(audio.Segment(0.0, length), row, self.prompt)
        return self.calibration.judged(Transcript((cue,), length, window.elapsed))

    def ordered(self, variants: Sequence[str] | None) -> tuple[str, ...]:
        """The requested variants (None for all) in the order of the results. Raises EvoxtralError."""
        unknown = [name for name in variants or () if name not in self.variants]
        if unknown:
            raise EvoxtralError(
                f"{self.checkpoint.name} has no variant {unknown[0]!r}: it has {', '.join(self.variants)}."
            )
        return self._mix.ordered(variants or self.variants)

    def _request(
        self,
        waveforms: Sequence[np.ndarray],
        selected: tuple[str, ...],
        language: str | None = "en",
        decoding: Decoding | None = None,
        keys: Sequence[int] = (0,),
        samples: int = 1,
        gone: Callable[[], bool] = lambda: False,
    ) -> Request:
        """What the scheduler is asked for waveforms, each of at most a window.

        keys: a number for each waveform, which with the seed decides what is sampled for it.
        """
        decoding = _seeded(decoding or Decoding())
        windows = []
        for waveform, key in zip(waveforms, keys, strict=True):
            budget, draws = decoding.budget(audio.duration(waveform)), [None] * samples
            if decoding.temperature:
                draws = uniform_draws(decoding.seed, [(key, sample) for sample in range(samples)], budget)
            windows.append(Window(waveform, [Row(budget, name, decoding, own) for name in selected for own in draws]))
        return Request(windows, selected, self.prompt.transcription_ids(language), gone)

    def _decode(self, request: Request, pause: Callable[[], float] = lambda: 0.0) -> Iterator[Sequence[Window]]:
        """Decode a request; gives its windows when they have new tokens, at most once in pause() seconds."""
        told: set[Window] = set()
        with _memory_or(DeviceFullError(OUT_OF_MEMORY)):
            for _ in self.scheduler.run(request, pause):
                for window in request.windows:
                    if window.done and window not in told:
                        told.add(window)
                        self._finish(window)
                yield request.windows

    def _finish(self, window: Window) -> None:
        """Give each row of a window that is done the times of its tokens, and how well its words agree with what the
        encoder has heard."""
        loud = None
        seconds = audio.duration(window.waveform)
        agreement.judge(window.rows, self.prompt, self.symbols, seconds / self.window_seconds)
        for row in window.rows:
            if row.decoding.times:
                loud = alignment.loudness(window.waveform) if loud is None else loud
                row.times = alignment.token_times(self.prompt.pieces(row.ids), row.looks, loud, self.window_seconds)

    @torch.inference_mode()
    def looks(
        self,
        waveforms: Sequence[np.ndarray],
        texts: Sequence[Sequence[int]],
        variant: str,
        watched: Sequence[tuple[int, int]],
        language: str | None = "en",
    ) -> list[np.ndarray]:
        """Where heads look in each waveform while they are given the token ids of its text: (heads, T, audio tokens).

        watched: (layer, query head) pairs.
        """
        ids = self.prompt.transcription_ids(language)
        first, longest = ids.index(self.prompt.audio_id), max(map(len, texts))
        tokens = torch.zeros(len(texts), longest, dtype=torch.long, device=self.device)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = torch.tensor(text)
        with self._lock, self._mix.using((variant,)):
            prompts = self._prompts(ids, self.prompt.log_mel(waveforms, self.device), (variant,))
            cache = Cache(self._text, len(texts), len(ids) + longest, watched=watched)
            cache.prefill(prompts)
            for column in tokens.T:
                cache.step(column)
            positions = slice(first, first + self.prompt.audio_tokens)
            looks = []
            for row, text in enumerate(texts):
                found = dict(zip(cache.watched, cache.attention(row, len(text), positions), strict=True))
                looks.append(torch.stack([found[head] for head in watched]).cpu().numpy())
        return looks

    def _prompts(self, ids: Sequence[int], log_mel: torch.Tensor, selected: tuple[str, ...]) -> torch.Tensor:
        """Prompt embeddings (variants x S, L, D) of ids (L,) and the audio_embeds of log_mel (S, bands, frames)."""
        tokens = torch.tensor(ids, device=self.device)
        audio_embeds = self._encoder(log_mel.to(self.activations), selected)
        prompts = self._text.embedded(tokens).repeat(len(audio_embeds), 1, 1)
        prompts[:, tokens == self.prompt.audio_id] = audio_embeds
        return prompts


@cache
def load(model: str = "auto") -> Engine:
    """The engine of a model, loaded once in a process.

    model: "auto", "tiny", "mini-3b", a folder, or the Hub id of a base; see `checkpoints.resolve`.
    Raises CheckpointError.
    """
    return Engine(checkpoints.resolve(model))


def transcribe(
    source: audio.Source, variant: str | None = None, language: str | None = "en", model: str = "auto"
) -> Transcript:
    """The transcript of a clip by one variant of a model, None for its last; see `load` and `Engine.stream`."""
    return load(model).transcribe(source, variant, language)


def _seeded(decoding: Decoding) -> Decoding:
    """With a seed where something is sampled: one for all windows and variants."""
    if decoding.temperature and decoding.seed is None:
        return replace(decoding, seed=np.random.SeedSequence().entropy)
    return decoding


def _turns(selected: tuple[str, ...], first: str | None) -> list[tuple[str, ...]]:
    """Variants that are decoded together, in the order of their turns."""
    if first not in selected or len(selected) < 2:
        return [selected]
    return [(first,), tuple(name for name in selected if name != first)]


def _empty(waveform: np.ndarray) -> Transcript:
    return Transcript((), audio.duration(waveform), 0.0)


def _blocks(rows: Sequence[Row], count: int) -> list[Sequence[Row]]:
    """Rows divided into `count` consecutive blocks of equal size."""
    size = len(rows) // count
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _rows_that_fit(room: float, config: VoxtralConfig, prompt: Prompt, dtype: torch.dtype) -> int:
    """How many rows `room` bytes hold: a full window's cache, and its widest activations in the encoder."""
    text, tower = config.text_config, config.audio_config
    positions = len(prompt.transcription_ids()) + Decoding().budget(prompt.window_seconds)
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * positions
    encoder = 4 * tower.max_source_positions * tower.intermediate_size  # about so many are alive at once
    return max(1, min(MAX_ROWS, int(room // ((cache + encoder) * dtype.itemsize))))


@contextmanager
def _memory_or(mistake: EvoxtralError) -> Iterator[None]:
    """Raise `mistake` instead of PyTorch's error when the device is out of memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise mistake from error
