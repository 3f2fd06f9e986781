"""What every route stands on: the engine, whose turn it is, and whether this service takes requests."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from fastapi import Request

from evoxtral import audio
from evoxtral.errors import EvoxtralError
from evoxtral.inference import multitrack
from evoxtral.inference.engine import Engine
from evoxtral.inference.sampling import Decoding
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.serve.limits import CLIENT, Gone, Limits, Turns
from evoxtral.serve.monitoring import Monitor
from evoxtral.serve.refusals import RETRY_AFTER, Refusal
from evoxtral.transcript import Transcript

LOADING = "The model is still being loaded: ask again in a few seconds."


@dataclass(frozen=True)
class Options:
    """Who may ask, from where, and by which names.

    tokens: see `access.read_tokens`; none for anybody.  origins: of pages whose scripts may ask, "*" for all.
    aliases: further names of models, each for a variant, as programs have them built in: {"whisper-1": "rl"}.
    """

    tokens: Mapping[bytes, str] = field(default_factory=dict)
    origins: Sequence[str] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What is asked of the engine for one recording."""

    data: bytes
    variants: tuple[str, ...]
    language: str | None = "en"
    decoding: Decoding | None = None
    track: audio.Choice = None
    channels: audio.Choice = None


class Service:
    """One model behind all routes. `engine` is None while its weights are loaded."""

    def __init__(self, model: Engine | Checkpoint, limits: Limits, options: Options):
        loaded = not isinstance(model, Checkpoint)
        self.engine: Engine | None = model if loaded else None
        checkpoint = model.checkpoint if loaded else model
        self.model, self.variants = checkpoint.name, tuple(checkpoint.variants)
        self.limits, self.options = limits, options
        self.draining = False  # it ends, once what was accepted is answered
        self.turns = Turns(limits.at_once or limits.requests)
        self.monitor = Monitor(self.turns, lambda: self.engine.scheduler if self.engine else None)
        unknown = [name for name in options.aliases.values() if name not in self.variants]
        if unknown:
            raise EvoxtralError(f"{self.model} has no variant {unknown[0]!r}: it has {', '.join(self.variants)}.")

    @property
    def ready(self) -> bool:
        return self.engine is not None and not self.draining

    @property
    def loaded(self) -> Engine:
        """The engine. Raises Refusal while there is none."""
        if self.engine is None:
            raise Refusal(503, LOADING, headers=RETRY_AFTER)
        return self.engine

    async def last(self, request: Request, task: Task) -> dict[str, Transcript] | None:
        """The transcripts of a recording; None if the client left. Raises as `Engine.stream` does, and Refusal."""
        self.loaded  # noqa: B018 - before anything is queued
        found = await self.turns.last(request, lambda gone: self._stream(request, task, gone))
        if found is not None:
            self.monitor.transcribed(found)
        return found

    async def each(self, request: Request, task: Task) -> AsyncIterator[dict[str, Transcript] | None]:
        """Growing transcripts, None for a sign of life; see `last`."""
        self.loaded  # noqa: B018 - before anything is queued
        async with aclosing(self.turns.each(request, lambda gone: self._stream(request, task, gone, True))) as steps:
            async for found in steps:
                if found is not None and all(transcript.done for transcript in found.values()):
                    self.monitor.transcribed(found)
                yield found

    def _stream(self, request: Request, task: Task, gone: Gone, read: bool = False) -> Iterator[dict[str, Transcript]]:
        """read: somebody reads along."""
        chosen = task.language, self.limits.seconds, task.track, task.channels, task.decoding
        client, first = request.scope.get(CLIENT), self.loaded.shown_first(task.variants) if read else None
        return multitrack.stream(self.loaded, task.data, task.variants, *chosen, gone=gone, client=client, first=first)
