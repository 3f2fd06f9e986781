"""`bulk` on a cluster, by Ray Data: one engine for each GPU, or for some cores, and one process that writes.

What goes through Ray is small: names of files in, transcripts out. A worker reads its files itself, and an error of one
file is that file's result. Ray gives the results of a task together, in the order in which tasks end; a task whose
worker or node dies is done again elsewhere. So a result belongs to its name and not to its place, and what comes twice
is taken once. Ray drops a whole task after ATTEMPTS at it: its files are tried again, at last one by one, and the
one that ends every worker fails alone.
"""

import gc
import logging
import math
import os
import pickle
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evoxtral.errors import AudioError, EvoxtralError
from evoxtral.inference import bulk
from evoxtral.inference.engine import Engine
from evoxtral.inference.inputs import is_address
from evoxtral.model import checkpoints
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.transcript import Transcript

if TYPE_CHECKING:
    from types import ModuleType

MAX_FILES = 128  # of a task: what is lost when its worker dies
ROUNDS = (MAX_FILES, MAX_FILES, 1)  # a node that is lost for good takes all attempts of its tasks along
TASKS_OF_ACTOR = 4  # at least, so that all actors end at about the same time
ATTEMPTS = 3  # at a task whose worker dies
CORES = 4  # of an actor, where there is no GPU

Found = dict[str, Transcript] | EvoxtralError


log = logging.getLogger(__name__)


class ClusterError(EvoxtralError):
    """A cluster that cannot be joined, or that has no room for an engine."""


@dataclass(frozen=True)
class Asked:
    """What a worker needs: the model, and the arguments of `bulk.transcribe`."""

    checkpoint: Checkpoint
    variants: tuple[str, ...] | None
    language: str | None
    max_seconds: float
    strict: bool


@dataclass(frozen=True)
class Room:
    """actors: how many there may be.  cores, gpus: of each."""

    actors: int
    cores: float
    gpus: float


class Transcriber:
    """An actor: one engine. Called with the files of a task, it gives their results, pickled."""

    def __init__(self, asked: Asked):
        self.asked = asked
        self.engine = Engine(asked.checkpoint)
        gc.freeze()  # Ray collects garbage by the clock: what was loaded need not be looked through again

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list]:
        paths = [str(path) for path in batch["path"]]
        found = self._found(paths)
        return {"file": batch["file"], "found": [pickle.dumps(found[path]) for path in paths]}

    def _found(self, files: Sequence[str]) -> dict[str, Found]:
        asked = self.asked
        arguments = asked.variants, asked.language, asked.max_seconds, asked.strict
        found: dict[str, Found] = {}
        try:
            for file, result in bulk.transcribe(self.engine, files, *arguments):
                found[file] = result
        except EvoxtralError as error:  # of the whole batch, such as too little memory: the others by themselves
            if len(files) == 1:
                return {files[0]: error}
            for file in files:
                if file not in found:
                    found |= self._found([file])
        return found


class Cluster:
    """A Ray cluster that this process has joined, and how many engines it gets there."""

    def __init__(self, address: str, actors: int | None = None):
        """address: that of a cluster, or "auto" for this machine's, which is started where there is none.
        actors: None for as many as there is room for. Raises ClusterError."""
        self.ray = joined(address)
        self.room = room_in([node["Resources"] for node in self.ray.nodes() if node["Alive"]], actors)
        log.info("%d engines with %g cores and %g GPUs each", self.room.actors, self.room.cores, self.room.gpus)

    def checkpoint(self, model: str, weights: str | None, window: float | None = None) -> Checkpoint:
        """The checkpoint of that name. What `auto` means is decided where the engines are."""
        if model == "auto":
            find = self.ray.remote(num_cpus=self.room.cores, num_gpus=self.room.gpus)(checkpoints.resolve)
            try:
                return self.ray.get(find.remote(model, weights=weights, window=window))
            except self.ray.exceptions.RayTaskError as error:
                raise ClusterError(f"No worker of the cluster finds a model: {error.cause}") from error
        found = checkpoints.resolve(model, weights=weights, window=window)
        adapters = {name: _absolute(reference) for name, reference in found.adapters.items()}
        return replace(found, base=_absolute(found.base), adapters=adapters)

    def transcribe(self, asked: Asked, files: Sequence[str]) -> Iterator[tuple[str, Found]]:
        """Each file once, with its transcripts by variant or the error why there are none; in any order.

        Raises ClusterError where no engine can be started.
        """
        left = dict.fromkeys(files)
        for most in ROUNDS:
            if most == 1:
                log.warning("%d files were lost with their workers: they are tried one by one", len(left))
            for file, found in self._round([*left], most, asked):
                if file in left:  # else a task was done twice
                    del left[file]
                    yield file, found
            if not left:
                return
        for file in left:
            yield file, AudioError("every process that read it has ended: leave it out, or convert it.")

    def _round(self, files: Sequence[str], most: int, asked: Asked) -> Iterator[tuple[str, Found]]:
        """Results of some files, in tasks of at most `most`; none of those whose task died ATTEMPTS times."""
        data, room = self.ray.data, self.room
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # what is dropped is known by its name here
        size = max(1, min(most, math.ceil(len(files) / (room.actors * TASKS_OF_ACTOR))))
        rows = [{"file": file, "path": _absolute(file)} for file in files]
        results = data.from_items(rows, override_num_blocks=math.ceil(len(files) / size)).map_batches(
            Transcriber,
            fn_constructor_args=(asked,),
            batch_size=None,  # a block is a task
            compute=data.ActorPoolStrategy(min_size=1, max_size=room.actors, initial_size=room.actors),
            num_cpus=room.cores,
            num_gpus=room.gpus,
            max_task_retries=ATTEMPTS - 1,
        )
        try:
            for row in results.iter_rows():
                yield row["file"], pickle.loads(row["found"])
        except self.ray.exceptions.RayError as error:
            raise ClusterError(f"The cluster cannot run an engine: {_sentence(error)}") from error


def _absolute(name: str) -> str:
    """A path as a worker, who stands in another folder, finds it; an address, or a name on the Hub, as it is."""
    if is_address(name) or not os.path.lexists(name):
        return name
    path = Path(name)
    return str(path.resolve() if path.exists() else path.absolute())  # a link to nothing is named itself


def _sentence(error: Exception) -> str:
    """The last line of what Ray says, which is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[-1] if lines else type(error).__name__, 300)


def joined(address: str) -> "ModuleType":
    """Ray, with this process in the cluster. Raises ClusterError."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of Ray's C++ part, which writes to stderr
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ClusterError("--cluster needs Ray: pip install 'evoxtral[bulk]'.") from error
    if address.startswith("ray://"):
        raise ClusterError(f"{address} is Ray's client: run this command on a node of the cluster, or by `ray job`.")
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # what matters is told here; Ray's own files have the rest
            handler.setLevel(logging.CRITICAL)
    settings = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if not ray.is_initialized():
            ray.init(address, **settings)
    except ConnectionError as error:
        if address != "auto":
            raise ClusterError(f"There is no Ray cluster at {address}: start one by `ray start --head`.") from error
        ray.init("local", include_dashboard=False, **settings)
    except (ValueError, RuntimeError) as error:
        raise ClusterError(f"The Ray cluster at {address} cannot be joined ({error}).") from error
    return ray


def room_in(nodes: Sequence[Mapping[str, float]], actors: int | None) -> Room:
    """How many engines have room in a cluster, and what each has: an engine is on one node. Raises ClusterError.

    nodes: the resources of each.
    """
    cores, gpus = [int(node.get("CPU", 0)) for node in nodes], sum(int(node.get("GPU", 0)) for node in nodes)
    if actors is not None and actors < 1:
        raise ClusterError(f"{actors} actors transcribe nothing: give --actors at least 1.")
    if gpus:
        return Room(actors or gpus, 1, 1)
    most = max(cores, default=0)
    if not most:
        raise ClusterError("The cluster has no free core: add nodes to it.")

    def engines(each: int) -> int:
        return sum(own // each for own in cores)

    if actors is None:
        each = most // max(1, most // CORES)
        return Room(engines(each), each, 0)
    return Room(actors, next((each for each in range(most, 1, -1) if engines(each) >= actors), 1), 0)
