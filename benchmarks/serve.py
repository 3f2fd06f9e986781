"""The HTTP service under a crowd, and that of an older checkout beside it.

    python benchmarks/serve.py crowd --baseline CHECKOUT   32 clients at once, then one; of each service in turns
    python benchmarks/serve.py load                        200 clients for minutes: nothing lost, mixed up or kept
    python benchmarks/serve.py steps                       what a window and a step of some rows cost, in this process

Each service is a process of its own, on loopback. `crowd` serves a model of random weights that writes as many tokens
as a clip's length allows, so both services do the same work; clips last 3 to 30 s. Each chooses the precision of its
weights, unless --weights says which ours has. A service without a stream gives its first text with the answer. `load`
serves the scale model: every clip has one text, which is known from asking alone.
Results go to benchmarks/serve.json, those of `crowd` and `steps` to docs/speed.md, too.
"""

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from evoxtral.model.checkpoints import WEIGHTS  # noqa: E402
from training.doc_tables import write_block  # noqa: E402

RESULTS = Path(__file__).parent / "serve.json"
LONGEST, SHORTEST = 30.0, 3.0  # s
SPEECH_RATE = 6.0  # tokens for a second of audio, about
# What a checkout, of any age, is asked to run: create_app of an engine that writes a fixed number of tokens.
SERVER = """
import sys, torch
sys.path.insert(0, ".")
try:
    from evoxtral.checkpoints import Checkpoint
    from evoxtral.decode import Decoding
    from evoxtral.engine import Engine
except ImportError:
    from evoxtral.inference.engine import Engine
    from evoxtral.inference.sampling import Decoding
    from evoxtral.model.checkpoints import Checkpoint, resolve
import uvicorn
from evoxtral.serve.api import create_app
from evoxtral.serve.limits import Limits
folder, port, rate, requests = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
asked = {name: kind(value) for name, kind, value in zip(("weights", "window"), (str, float), sys.argv[5:]) if value}

class Fixed(Engine):
    def stream(self, source, variants=None, language="en", decoding=None, *more, **named):
        decoding = Decoding(stop_loops=False, tokens_per_second=rate, spare_tokens=0)
        return super().stream(source, variants, language, decoding, *more, **named)

if rate:
    adapters = {"sft": f"{folder}/sft", "rl": f"{folder}/rl"}
    engine = Fixed(Checkpoint("random", f"{folder}/base", adapters, **asked), device="cpu")
    engine.prompt.eos_id = -1
else:
    engine = Engine(resolve("tiny"), device="cpu")
uvicorn.run(create_app(engine, Limits(requests=requests)), host="127.0.0.1", port=port, log_level="error")
""".replace(
    "from evoxtral.serve.limits import Limits\n",
    """try:
    from evoxtral.serve.limits import Limits
except ImportError:
    from evoxtral.serve.api import Limits
""",
)


@dataclass(frozen=True)
class Answer:
    """One client: seconds of its clip, to its first text, and to its end; its text."""

    clip: float
    first: float
    end: float
    text: str


class Server:
    """The service of a checkout.  more: weights and window, as `--weights` and `--window` have them."""

    def __init__(self, checkout: Path, folder: Path | None, port: int, rate: float, requests: int, *more: str):
        command = [sys.executable, "-c", SERVER, *map(str, (folder, port, rate, requests)), *more]
        self.process = subprocess.Popen(command, cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)})
        self.url = f"http://127.0.0.1:{port}"
        while True:
            if self.process.poll() is not None:
                sys.exit(f"The service of {checkout} ended with exit code {self.process.returncode}.")
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{self.url}/health")
                break
            time.sleep(0.2)
        self.streams = "/transcribe/stream" in httpx.get(f"{self.url}/openapi.json").json()["paths"]

    def cpu(self) -> float:
        """Processor seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Megabytes now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.resume()
        self.process.terminate()
        self.process.wait()


async def ask(client: httpx.AsyncClient, server: Server, wav: bytes, seconds: float) -> Answer:
    """One recording, by the last variant; growing text where the service gives it."""
    begun, first, text = time.perf_counter(), None, None
    files = {"file": ("clip.wav", wav)}
    if not server.streams:
        answer = await client.post(f"{server.url}/transcribe", files=files)
        answer.raise_for_status()
        text = answer.json()["variants"]["rl"]["text"]
    else:
        async with client.stream("POST", f"{server.url}/transcribe/stream", files=files) as answer:
            answer.raise_for_status()
            async for event in _events(answer):
                found = event["variants"]["rl"]
                text = found if isinstance(found, str) else found["text"]
                if text and first is None:
                    first = time.perf_counter() - begun
    end = time.perf_counter() - begun
    return Answer(seconds, end if first is None else first, end, text or "")


async def _events(answer: httpx.Response) -> AsyncIterator[dict]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def clips(count: int) -> list[tuple[float, bytes]]:
    """Clips of 3 to 30 s, in an order that is not that of their lengths."""
    from benchmarks.models import some_speech
    from evoxtral import audio

    lengths = np.random.default_rng(0).permutation(np.linspace(SHORTEST, LONGEST, count)) if count > 1 else [15.0]
    return [(float(s), audio.wav_bytes(some_speech(float(s), i))) for i, s in enumerate(lengths)]


async def at_once(server: Server, recordings: Sequence[tuple[float, bytes]]) -> list[Answer]:
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:
        return await asyncio.gather(*(ask(client, server, wav, seconds) for seconds, wav in recordings))


def measure(server: Server, recordings: Sequence[tuple[float, bytes]]) -> dict:
    server.resume()
    begun, used = time.perf_counter(), server.cpu()
    answers = asyncio.run(at_once(server, recordings))
    elapsed, cpu = time.perf_counter() - begun, server.cpu() - used
    server.pause()
    audio = sum(answer.clip for answer in answers)
    return {
        "clients": len(answers), "audio_s": round(audio, 1), "elapsed_s": round(elapsed, 2), "cpu_s": round(cpu, 2),
        "audio_per_second": round(audio / elapsed, 3), "audio_per_cpu_second": round(audio / cpu, 3),
        "first_text_p95_s": round(float(np.percentile([answer.first for answer in answers], 95)), 2),
        "first_text_median_s": round(statistics.median(answer.first for answer in answers), 2),
    }  # fmt: skip


def crowd(args: argparse.Namespace) -> dict:
    from benchmarks.models import SHAPES, build

    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        build(SHAPES[args.shape], Path(folder), adapters=2)
        with contextlib.ExitStack() as stack:
            given = args.weights or "", f"{args.window or ''}"
            servers = {
                "baseline": Server(Path(args.baseline), Path(folder), 8761, args.rate, 64),
                "ours": Server(ROOT, Path(folder), 8762, args.rate, 64, *given),
            }
            for server in servers.values():
                stack.callback(server.end)
            found = {}
            for part, count in (("one", 1), ("crowd", args.clients)):
                for server in servers.values():  # warm: kernels are made
                    measure(server, clips(1))
                turns = [
                    {name: measure(server, clips(count)) for name, server in servers.items()}
                    for _ in range(args.repeats if part == "one" else 1)
                ]
                found[part] = {
                    name: {key: statistics.median(turn[name][key] for turn in turns) for key in turns[0][name]}
                    for name in servers
                }
            for part in found.values():
                ours, baseline = part["ours"], part["baseline"]
                part["ratio"] = {
                    "audio_per_second": round(ours["audio_per_second"] / baseline["audio_per_second"], 2),
                    "audio_per_cpu_second": round(ours["audio_per_cpu_second"] / baseline["audio_per_cpu_second"], 2),
                    "first_text_p95": round(ours["first_text_p95_s"] / baseline["first_text_p95_s"], 3),
                }
            about = {"shape": args.shape, "tokens_per_second_of_audio": args.rate, "cores": os.cpu_count()}
            about |= {"weights": args.weights or "auto", "window_s": args.window or LONGEST, "load": before}
            return about | found


def steps(args: argparse.Namespace) -> dict:
    """Processor seconds of this thread for a window's encoder and prompt, and for a step by its number of rows."""
    import torch

    from benchmarks.models import SHAPES, build, some_speech
    from evoxtral.inference.batch import Batch
    from evoxtral.inference.engine import Engine
    from evoxtral.inference.sampling import Decoding, Row

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        checkpoint = build(SHAPES[args.shape], Path(folder), adapters=2)
        engine = Engine(replace(checkpoint, weights=args.weights or "auto"), device="cpu")
        ids = engine.prompt.transcription_ids("en")
        log_mel = engine.prompt.log_mel([some_speech(15.0)], engine.device)

        def joined(rows: int) -> tuple[Batch, float, float]:
            begun = time.thread_time()
            prompts = engine._prompts(ids, log_mel, ("rl",))
            encoded = time.thread_time()
            batch = Batch(engine._text, -1, rows, engine.heads.watched)
            batch.join(prompts, [Row(400, "rl", Decoding(stop_loops=False)) for _ in range(rows)], ("rl",))
            return batch, encoded - begun, time.thread_time() - encoded

        def step(batch: Batch) -> float:
            begun = time.thread_time()
            batch.advance(1)
            return time.thread_time() - begun

        joined(1)
        encoder, prompt = (min(times) for times in zip(*(joined(1)[1:] for _ in range(3)), strict=True))
        found = {}
        for rows in (1, 2, 4, 8, 16, 32):
            batch, *_ = joined(rows)
            found[rows] = round(min(step(batch) for _ in range(8)), 4)
    weights = engine.precision.weights
    return {
        "shape": args.shape,
        "weights": weights,
        "encoder_s": round(encoder, 2),
        "prompt_s": round(prompt, 2),
        "step_s": found,
    }


async def _crowd_for(server: Server, texts: dict[bytes, str], clients: int, seconds: float) -> dict:
    end = time.monotonic() + seconds
    counts = {"answered": 0, "lost": 0, "wrong": 0}
    before, memory = server.memory(), []
    recordings = list(texts)

    async def visitor(number: int, client: httpx.AsyncClient) -> None:
        turn = number
        while time.monotonic() < end:
            wav = recordings[turn % len(recordings)]
            turn += 1
            try:
                answer = await ask(client, server, wav, 0.0)
            except httpx.HTTPError:
                counts["lost"] += 1
                continue
            counts["answered"] += 1
            # Words are compared: in other company a probability differs in its last digits.
            counts["wrong"] += answer.text != texts[wav]

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(server.memory())
            await asyncio.sleep(max(1.0, seconds / 100))

    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:
        await asyncio.gather(watch(), *(visitor(number, client) for number in range(clients)))
    third = max(1, len(memory) // 3)
    thirds = {"first": memory[:third], "middle": memory[third : 2 * third] or memory, "last": memory[-third:]}
    return counts | {"memory_mb": {"before": round(before)} | {name: round(max(own)) for name, own in thirds.items()}}


def load(args: argparse.Namespace) -> dict:
    """Clients who ask again and again for clips of different texts."""
    from benchmarks.models import VOICES, speak
    from evoxtral import audio

    sentences = (ROOT / "evoxtral" / "assets" / "bench" / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    spoken = [
        speak(" ".join(json.loads(line)["text"].split()[: args.words]), VOICES[i % len(VOICES)], seed=i)
        for i, line in enumerate(sentences[: args.texts])
    ]
    server = Server(ROOT, None, 8763, 0.0, args.clients)
    try:
        texts = {}
        for one in spoken:
            wav = audio.wav_bytes(one.waveform.astype(np.float32))
            (answer,) = asyncio.run(at_once(server, [(0.0, wav)]))
            texts[wav] = answer.text
        found = asyncio.run(_crowd_for(server, texts, args.clients, args.seconds))
    finally:
        server.end()
    about = {"clients": args.clients, "seconds": args.seconds, "texts": len(set(texts.values()))}
    about["seconds_of_a_clip"] = round(sum(len(one.waveform) for one in spoken) / len(spoken) / audio.SAMPLE_RATE, 1)
    return about | found


def table_of_steps(results: dict) -> str:
    """What docs/speed.md shows of every run of `steps`."""
    lines = ["| weights | window: encoder | prompt | step: 1 row | 8 rows | 32 rows |", "|---|---|---|---|---|---|"]
    for name, found in results.items():
        if name.startswith("steps"):
            steps = " | ".join(f"{1000 * found['step_s'][rows]:.0f} ms" for rows in ("1", "8", "32"))
            lines.append(f"| {found['weights']} | {found['encoder_s']:.2f} s | {found['prompt_s']:.2f} s | {steps} |")
    return "\n".join(lines) + "\n"


def table(results: dict) -> str:
    """What docs/speed.md shows of every crowd."""
    lines = [
        "| weights | clients | audio a second | a processor second | first text, 95 % | one client | load |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        if not name.startswith("crowd"):
            continue
        baseline, ours, ratio = (found["crowd"][key] for key in ("baseline", "ours", "ratio"))
        alone, weights = found["one"]["ratio"], found.get("weights", "auto")
        if (window := found.get("window_s", LONGEST)) != LONGEST:
            weights += f", windows of {window:g} s"
        if found["tokens_per_second_of_audio"] != SPEECH_RATE:
            weights += f", {found['tokens_per_second_of_audio']:g} tokens a second"
        both = [
            f"{baseline[key]:.2f} → {ours[key]:.2f} s, {ratio[key]:.2f} ×"
            for key in ("audio_per_second", "audio_per_cpu_second")
        ]
        first = f"{baseline['first_text_p95_s']:.0f} → {ours['first_text_p95_s']:.0f} s, {ratio['first_text_p95']:.2f}"
        one = f"{alone['audio_per_second']:.2f} × ({alone['audio_per_cpu_second']:.2f} ×)"
        busy = f"{found['load'][0]:.0f}" if "load" in found else "quiet"
        lines.append(f"| {weights} | {ours['clients']} | {both[0]} | {both[1]} | {first} | {one} | {busy} |")
    return "\n".join(lines) + "\n"


PARTS = {"crowd": crowd, "load": load, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--baseline", help="a checkout whose service is measured, too")
    parser.add_argument("--shape", default="250m")
    parser.add_argument("--clients", type=int)
    about = f"tokens for a second of audio (default: {SPEECH_RATE:g}, as speech has; a clip's budget is 12.5)"
    parser.add_argument("--rate", type=float, default=SPEECH_RATE, help=about)
    parser.add_argument("--weights", choices=WEIGHTS, help="of ours (default: what it chooses, as the baseline does)")
    parser.add_argument("--window", type=float, help="s, of ours; shorter ones than the model's 30 s give other text")
    parser.add_argument("--repeats", type=int, default=3, help="of one client")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--words", type=int, default=100, help="of each text, at most")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.part == "crowd" and not args.baseline:
        parser.error("--baseline CHECKOUT is needed: the service to compare with")
    args.clients = args.clients or (32 if args.part == "crowd" else 200)
    result = {"date": str(datetime.date.today()), **PARTS[args.part](args)}
    results = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    key = args.part
    if args.part == "steps":
        key += f" {args.shape} {result['weights']}"
    if args.part == "crowd":
        key += f" {args.shape} {args.rate:g}{f' {args.weights}' if args.weights else ''}"
        key += f" window {args.window:g}" if args.window else ""
    results |= {key: result}
    results = json.loads(json.dumps(results))  # keys are text
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if args.out == RESULTS:
        page = ROOT / "docs" / "speed.md"
        write_block(page, "<!-- crowd:start -->\n", "<!-- crowd:end -->", table(results))
        write_block(page, "<!-- steps:start -->\n", "<!-- steps:end -->", table_of_steps(results))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
