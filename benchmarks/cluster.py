"""`bulk` on a local Ray cluster of several nodes: whether what is killed is lost, and what Ray costs.

    python benchmarks/cluster.py kills --clips 10000   # needs the extra `bulk`; half an hour of one core
    python benchmarks/cluster.py cost --clips 1000     # three minutes of a quiet machine

`kills`: one process; then a cluster of which a worker, the driver and, once it goes on, a node are killed. `cost`: one
process and an undisturbed cluster with one engine, in turns, one thread each: seconds, and processor seconds of every
process of Ray and of the driver, from the first result to the last; starting is told apart.
Stored in `benchmarks/cluster.json`. Clips are short and encoded in windows of their length, so that Ray's part is as
large as it can be.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from evoxtral import audio  # noqa: E402
from evoxtral.speech import VOICES, speak  # noqa: E402

TEXTS = (
    "Please do not tell my sister that I left my keys in the car again.",
    "[excited] We have all the time in the world! [laughs] Nobody should hurry.",
    "[sighs] The train to the old harbour leaves at nine in the morning.",
    "[whispers] I never said that we would go there. [pause] I am so sorry.",
)
NODES = 2
TURNS = 2
SECONDS = 0.8  # of a clip
ASKED = ("--model", "tiny", "--weights", "fp32", "--variant", "rl", "--window", "1")
OBJECT_STORE = 80_000_000  # bytes of a node, about the least that Ray takes
TICK = os.sysconf("SC_CLK_TCK")


def write_clips(folder: Path, count: int, seconds: float = SECONDS) -> None:
    """Clips cut from the embedded voice, a file that is no recording and a link to none."""
    folder.mkdir(parents=True)
    voices = [speak(text, VOICES[i % len(VOICES)], seed=i).waveform for i, text in enumerate(TEXTS)]
    random, length = np.random.default_rng(0), round(seconds * audio.SAMPLE_RATE)
    for number in range(count):
        voice = voices[number % len(voices)]
        at = random.integers(0, len(voice) - length)
        audio.save(folder / f"{number:05d}.wav", voice[at : at + length])
    (folder / "broken.wav").write_text("this is no recording")
    (folder / "gone.wav").symlink_to("nowhere.wav")


def nodes(count: int = NODES):
    """A Ray cluster on this machine: a head without cores, and some nodes of one core. Gives it and the nodes."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: beside other work nothing would move
    from ray.cluster_utils import Cluster

    cluster = Cluster(True, head_node_args={"num_cpus": 0, "object_store_memory": OBJECT_STORE})
    return cluster, [cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE) for _ in range(count)]


def started(clips: Path, output: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "evoxtral", "-q", "bulk", str(clips), "-o", str(output), *ASKED]
    return subprocess.Popen(
        [*command, *more], stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},  # as Ray has it for one core
    )  # fmt: skip


def results(output: Path) -> dict[str, dict]:
    """file -> result. Raises AssertionError where one is there twice."""
    lines = output.read_bytes().split(b"\n")[:-1] if output.exists() else []
    found = {one["file"]: one for one in map(json.loads, lines)}
    assert len(found) == len(lines), "a result was written twice"
    return found


def workers(node) -> list[int]:
    """Process ids of the engines of a node."""
    raylets = [info.process.pid for info in node.all_processes["raylet"]]
    return [pid for pid, (parent, name, _) in processes().items() if parent in raylets and "MapWorker" in name]


def processes() -> dict[int, tuple[int, str, float]]:
    """Process id -> parent, command, processor seconds, of all that run."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        found[int(folder.name)] = (int(fields[1]), command, (int(fields[11]) + int(fields[12])) / TICK)
    return found


def spent(roots: Sequence[int], seen: dict[int, tuple[str, float]]) -> dict[str, float]:
    """Processor seconds of engines and of the rest, over some processes and all that they started. The first of
    `roots` is the command, which is an engine where there is no cluster.

    seen: process id -> kind and seconds; keeps those that have ended since, as idle engines do before the last result.
    """
    running = processes()

    def is_ours(pid: int) -> bool:
        return pid in roots or (pid in running and running[pid][0] > 1 and is_ours(running[pid][0]))

    for pid, (_, name, seconds) in running.items():
        kind, before = seen.get(pid, ("", 0.0))
        if is_ours(pid) and seconds >= before:
            engine = "MapWorker" in name or kind == "engines"  # it changes its name when it has nothing to do
            seen[pid] = ("engines" if engine else "command" if pid == roots[0] else "ray"), seconds
    return {kind: sum(s for k, s in seen.values() if k == kind) for kind in ("engines", "command", "ray")}


def watched(run: subprocess.Popen, output: Path, roots: Sequence[int], at: dict[int, Callable[[], None]]) -> dict:
    """Wait for a run; call each function of `at` once there are so many results. Gives what the run took."""
    waiting, first, seen = sorted(at), None, {}
    while run.poll() is None:
        there = output.read_bytes().count(b"\n") if output.exists() else 0
        if there and first is None:
            first = there, spent(roots, seen), time.perf_counter()
        if waiting and there >= waiting[0]:
            at[waiting.pop(0)]()
        last = there, spent(roots, seen), time.perf_counter()
        time.sleep(0.1)
    if first is None or first[0] == last[0]:
        return {"results": last[0]}
    count, elapsed = last[0] - first[0], last[2] - first[2]
    per_clip = {kind: round(1e3 * (last[1][kind] - first[1][kind]) / count, 2) for kind in last[1]}
    return {
        "results": last[0],
        "until_first_result_cpu_s": {kind: round(seconds, 1) for kind, seconds in first[1].items()},
        "cpu_ms_per_clip": per_clip,
        "elapsed_s": round(elapsed, 1),
    }


def told(found: dict[str, dict]) -> dict[str, dict[str, str]]:
    """file -> variant -> text."""
    return {file: {name: one["text"] for name, one in row["variants"].items()} for file, row in found.items()}


def killed(clips: Path, output: Path, count: int) -> dict[str, dict]:
    """Results of a run on a cluster of which a worker, then the driver, then in the second run a node is killed."""
    cluster, (first, second) = nodes()

    def kill_worker() -> None:
        pid, *_ = workers(first) or workers(second)
        os.kill(pid, signal.SIGKILL)

    try:
        more = ("--cluster", cluster.address, "--actors", "2")
        run = started(clips, output, *more)
        watched(run, output, [run.pid], {count // 4: kill_worker, count // 2: run.kill})
        assert run.wait() == -signal.SIGKILL, run.stderr.read()
        kept = results(output)
        assert 0 < len(kept) < count
        run = started(clips, output, *more)
        watched(run, output, [run.pid], {len(kept) + 1: lambda: cluster.remove_node(second, allow_graceful=False)})
        code, said = run.wait(), run.stderr.read()
        assert code == 2 and "broken.wav" in said and "gone.wav is a link" in said.replace('"', ""), "two are none"
        found = results(output)
        assert kept.items() <= found.items(), "what was written stays as it is"
        return found
    finally:
        cluster.shutdown()


def kills(folder: Path, count: int) -> dict:
    run = started(folder / "clips", folder / "single.jsonl")
    single = watched(run, folder / "single.jsonl", [run.pid], {})
    print("one process", single, flush=True)
    found, alone = (
        told(one)
        for one in (killed(folder / "clips", folder / "killed.jsonl", count), results(folder / "single.jsonl"))
    )
    return {
        "one_process": single,
        "results": len(found),
        "texts": len({text for row in alone.values() for text in row.values()}),
        "identical_after_kills": found == alone,
        "different": sorted(
            Path(file).name for file in alone.keys() | found.keys() if found.get(file) != alone.get(file)
        ),
    }


def cost(folder: Path, count: int) -> dict:
    runs: dict[str, list[dict]] = {"one_process": [], "cluster": []}
    texts = []
    for turn in range(TURNS):
        output = folder / f"single{turn}.jsonl"
        run = started(folder / "clips", output)
        runs["one_process"].append(watched(run, output, [run.pid], {}))
        texts.append(told(results(output)))
        cluster, _ = nodes()
        try:
            output = folder / f"cluster{turn}.jsonl"
            run = started(folder / "clips", output, "--cluster", cluster.address, "--actors", "1")
            own = [info[0].process.pid for node in cluster.list_all_nodes() for info in node.all_processes.values()]
            runs["cluster"].append(watched(run, output, [run.pid, *own], {}))
            texts.append(told(results(output)))
        finally:
            cluster.shutdown()
    spent, working = (total(runs, kinds) for kinds in (("engines", "command", "ray"), ("engines", "command")))
    elapsed = {name: sum(run["elapsed_s"] for run in found) for name, found in runs.items()}
    return runs | {
        "overhead_elapsed": round(elapsed["cluster"] / elapsed["one_process"] - 1, 3),
        "overhead_cpu": round(spent["cluster"] / spent["one_process"] - 1, 3),
        "overhead_cpu_of_engines_and_command": round(working["cluster"] / working["one_process"] - 1, 3),
        "identical": all(text == texts[0] for text in texts),
    }


def total(runs: dict[str, list[dict]], kinds: Sequence[str]) -> dict[str, float]:
    """Processor ms a clip of these kinds of processes, over all turns."""
    return {name: sum(run["cpu_ms_per_clip"][kind] for run in found for kind in kinds) for name, found in runs.items()}


PARTS = {"kills": kills, "cost": cost}


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--folder", type=Path, help="where clips and results are kept, so that it can go on")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "cluster.json")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        if not (folder / "clips").exists():
            write_clips(folder / "clips", args.clips)
        found = PARTS[args.part](folder, args.clips)
    about = {"clips": args.clips, "clip_s": SECONDS, "nodes": NODES, "ray": ray.__version__, "cores": os.cpu_count()}
    before = json.loads(args.output.read_text(encoding="utf-8")) if args.output.exists() else {}
    measured = {args.part: about | {"date": str(datetime.date.today())} | found}
    args.output.write_text(json.dumps(before | measured, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
