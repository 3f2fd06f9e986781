"""Trackers: a run shown by Trackio or Weights & Biases while it trains, and afterwards.

A run's own files are the truth. Trainers only write those, and a process of its own follows them: whatever a training
process wrote before it was killed is still sent. If that process is killed as well, the next one sends what the tracker
does not have. An event has the same index in the same run always, so nothing is sent twice.

    python training/tracking.py runs/NAME --track trackio      a run that was trained without
"""

import argparse
import fcntl
import importlib.util
import json
import logging
import os
import select
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # see run.py

from evoxtral import metrics  # noqa: E402
from evoxtral.errors import EvoxtralError, RecipeError  # noqa: E402
from training.exit_codes import exit_code  # noqa: E402

log = logging.getLogger("training")

TRACKERS = ("trackio", "wandb")
PROJECT = "evoxtral"
NOTE = "tracking.json"  # in a run's folder: under which ids its trackers know it
POLL = 2.0  # s between two looks at the files
STAGES = ("pretrain", "sft", "rl")
READY = "ready"


@dataclass(frozen=True)
class Event:
    """What a tracker is told at once. values: by name. predictions: rows of `evaluations`. rewards: of all samples."""

    stage: str
    step: int
    values: dict[str, float]
    predictions: list[dict] = field(default_factory=list)
    rewards: dict[str, list[float]] = field(default_factory=dict)


# --- the files of a run as events ---------------------------------------------------------------------------------


def events(run: Path) -> list[Event]:
    """Everything that the files of a run tell, oldest first; later calls only add to the end."""
    out = []
    for stage in STAGES:
        if stage == "rl" and (run / "rl.log.jsonl").exists():
            out += _sampled(run / "samples.jsonl")
        out += _trained(run, stage)
    return [*out, *_measured(run / "results.json")]


def _trained(run: Path, stage: str) -> Iterator[Event]:
    """Of a step that was done again after an interruption only the first."""
    shown = {row["step"]: row["predictions"] for row in _rows(run / f"{stage}.predictions.jsonl")}
    seen = set()
    for row in _rows(run / f"{stage}.log.jsonl"):
        step, training = row["step"], "rate" in row
        if (step, training) not in seen:
            seen.add((step, training))
            values = {name: value for name, value in row.items() if name != "step"}
            yield Event(stage, step, values, [] if training else shown.get(step, []))


def _sampled(path: Path) -> Iterator[Event]:
    if rewards := [row["rewards"] for row in _rows(path)]:
        every, best = [reward for group in rewards for reward in group], [max(group) for group in rewards]
        means = {"mean_reward": sum(every) / len(every), "mean_best_reward": sum(best) / len(best)}
        yield Event("raft", 0, means, rewards={"rewards": every, "best_rewards": best})


def _measured(path: Path) -> Iterator[Event]:
    if path.exists():
        for k, (variant, scores) in enumerate(json.loads(path.read_text(encoding="utf-8"))["variants"].items()):
            numbers = {m.name: scores[m.name] for m in metrics.METRICS if isinstance(scores.get(m.name), float)}
            yield Event(f"bench/{variant}", k, numbers)


def _rows(path: Path) -> Iterator[dict]:
    """Rows of a JSONL file; a line that is only half there is none."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


# --- trackers -----------------------------------------------------------------------------------------------------


class Tracker(Protocol):
    """One run in one tracker. sent: how many events it has already."""

    sent: int

    def send(self, event: Event) -> None: ...

    def finish(self) -> None: ...


class Trackio:
    """Trackio on this machine: `trackio show --project evoxtral` shows it. What it has is asked of its database."""

    def __init__(self, run: Path, identity: str) -> None:
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        self._trackio = trackio
        name = f"{run.name}-{identity}"  # the same name in another folder is another run
        self._run = trackio.init(PROJECT, name, config=_recipe(run), resume="allow", embed=False, auto_log_cpu=False)
        self.sent = len(SQLiteStorage.get_logs(PROJECT, name, run_id=self._run.id))

    def send(self, event: Event) -> None:
        values: dict[str, Any] = {f"{event.stage}/{name}": value for name, value in event.values.items()}
        for name, rewards in event.rewards.items():
            values[f"{event.stage}/{name}"] = self._trackio.Histogram(rewards)
        if event.predictions:
            rows = [[k, row["reference"], row["prediction"]] for k, row in enumerate(event.predictions, 1)]
            values[f"{event.stage}/predictions"] = self._trackio.Table(["clip", "said", "written"], rows)
            for k, row in enumerate(event.predictions, 1):  # its tables cannot play
                if (waveform := _heard(row)) is not None:
                    clip = self._trackio.Audio(waveform, f"{k}: {row['prediction']}", sample_rate=_rate())
                    values[f"{event.stage}/clip {k}"] = clip
        self._run.log(values, step=event.step)
        self.sent += 1

    def finish(self) -> None:
        self._run.finish()


class Wandb:
    """Weights & Biases; with WANDB_MODE=offline in `RUN/wandb`, for `wandb sync`.

    Online the server tells what it has. Offline its files are complete only once a session has ended: a session that
    was killed is set aside, and its events are sent again.
    """

    def __init__(self, run: Path, identity: str) -> None:
        os.environ.setdefault("WANDB_DATA_DIR", str(run / "wandb"))  # the audio of tables, too, is in the run's folder
        import wandb

        self._wandb, self._note = wandb, run / "wandb.json"
        before = json.loads(self._note.read_text(encoding="utf-8")) if self._note.exists() else {"sent": 0}
        if (unfinished := before.get("session")) and Path(unfinished).exists():
            Path(unfinished).rename(Path(unfinished).with_name(f"unfinished-{Path(unfinished).name}"))
        try:
            self._run = wandb.init(
                project=PROJECT, id=identity, name=run.name, config=_recipe(run), resume="allow", dir=run,
                settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
            )  # fmt: skip
        except wandb.errors.Error as error:
            hint = "log in with `wandb login`, or set WANDB_MODE=offline"
            raise RecipeError(f"wandb did not start: {hint} ({str(error).splitlines()[0]})") from None
        self.sent = before["sent"] if self._run.offline else self._run.step
        if self._run.offline:
            self._keep(self._run.sync_dir)
        for stage in (*STAGES, "raft", "bench"):
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def _keep(self, session: str | None) -> None:
        self._note.write_text(json.dumps({"sent": self.sent, "session": session}), encoding="utf-8")

    def send(self, event: Event) -> None:
        values: dict[str, Any] = {f"{event.stage}/{name}": value for name, value in event.values.items()}
        values[f"{event.stage}/step"] = event.step
        for name, rewards in event.rewards.items():
            values[f"{event.stage}/{name}"] = self._wandb.Histogram(rewards)
        if event.predictions:
            table = self._wandb.Table(["clip", "said", "written", "audio"])
            for k, row in enumerate(event.predictions, 1):
                waveform = _heard(row)
                clip = None if waveform is None else self._wandb.Audio(waveform, sample_rate=_rate())
                table.add_data(k, row["reference"], row["prediction"], clip)
            values[f"{event.stage}/predictions"] = table
        self._run.log(values, step=self.sent)
        self.sent += 1

    def finish(self) -> None:
        self._run.finish()
        self._keep(None)


def _recipe(run: Path) -> dict:
    return json.loads((run / "recipe.json").read_text(encoding="utf-8"))


def _heard(row: dict):
    """The waveform (T,) int16 of a prediction's clip; None where it was not kept and cannot be spoken again."""
    from evoxtral import audio, speech

    if row["audio"] and Path(row["audio"]).exists():
        waveform = audio.load(row["audio"])
    elif row["voice"] in speech.VOICES:
        waveform = speech.speak(row["reference"], row["voice"], row["seed"]).waveform
    else:
        return None
    return (waveform.clip(-1, 1) * 32767).astype("int16")


def _rate() -> int:
    from evoxtral.audio import SAMPLE_RATE

    return SAMPLE_RATE


def opened(name: str, run: Path) -> Tracker:
    """A tracker with the run as it knows it; a run that was tracked before goes on. Raises RecipeError."""
    check([name])
    note = run / NOTE
    known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    if name not in known:
        known[name] = uuid.uuid4().hex[:8]
        note.write_text(json.dumps(known), encoding="utf-8")
    return {"trackio": Trackio, "wandb": Wandb}[name](run, known[name])


def check(names: Sequence[str]) -> None:
    """Raises RecipeError for a tracker that is not installed."""
    for name in missing(names):
        raise RecipeError(f"{name} is not installed: pip install 'evoxtral[track]'.")


def missing(names: Sequence[str]) -> list[str]:
    """Which of these packages are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def feed(run: Path, tracker: Tracker) -> None:
    """Send what the tracker does not have yet."""
    for event in events(run)[tracker.sent :]:
        tracker.send(event)


# --- the process that follows a run -------------------------------------------------------------------------------


@contextmanager
def following(run: Path, names: Sequence[str]) -> Iterator[None]:
    """While the block runs, and until everything is sent, trackers follow the run's files. Raises RecipeError where one
    cannot start; one that fails later costs the run nothing."""
    if not names:
        yield
        return
    check(names)
    tracks = [word for name in names for word in ("--track", name)]
    command = [sys.executable, str(Path(__file__).resolve()), str(run), *tracks, "--follow"]
    with (run / "tracking.log").open("a") as told:
        # Of a session of its own: neither an interrupt nor the end of this process ends it.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told, text=True, start_new_session=True
        )
    with process:
        if (answer := process.stdout.readline().strip()) != READY:
            process.wait()
            raise RecipeError(answer or f"Tracking did not start: see {run / 'tracking.log'}.")
        try:
            yield
        finally:
            process.stdin.close()
            if process.wait():
                again = f"python training/tracking.py {run} {' '.join(tracks)}"
                log.warning("Tracking ended early (%s); send the rest with: %s", run / "tracking.log", again)


def follow(run: Path, names: Sequence[str], follows: bool) -> int:
    """Feed trackers from a run's files: once, or until what started this process closes its input."""
    answer = os.fdopen(os.dup(1), "w")
    if follows:
        os.dup2(2, 1)  # trackers print, and a pipe that nobody reads would fill up
    with (run / ".tracking.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the process of a run that was killed may still be sending
        try:
            trackers = [opened(name, run) for name in names]
        except EvoxtralError as error:
            if not follows:
                raise
            print(error, file=answer, flush=True)
            return 2
        if follows:
            print(READY, file=answer, flush=True)
        while follows and not select.select([0], [], [], POLL)[0]:
            for tracker in trackers:
                feed(run, tracker)
        for tracker in trackers:
            feed(run, tracker)
            tracker.finish()
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training/tracking.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a run")
    add_option(parser, required=True)
    parser.add_argument("--follow", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)

    def command() -> int:
        if not (options.run / "recipe.json").is_file():
            raise RecipeError(f"{options.run} is not the folder of a run: it has no recipe.json.")
        return follow(options.run, list(dict.fromkeys(options.track)), options.follow)

    return exit_code(command, options.run)


def add_option(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """`--track NAME`, repeatable."""
    parser.add_argument(
        "--track", action="append", default=[], choices=TRACKERS, required=required,
        help="show the run in a tracker; repeatable",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
