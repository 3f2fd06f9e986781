"""Scripts by a language model, at any endpoint that speaks OpenAI's chat completions with structured output.

The published corpus had its scripts from a language model. What comes is checked before anything is paid to speak it:
a duplicate, a tag that is ill-formed or that nobody knows, too many tags for the slice are refused, with the reason in
the next request. Everything is on disk as it comes, refused ones too, and the same command goes on from there.
"""

import json
import logging
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from evoxtral import tags
from evoxtral.errors import EvoxtralError, RecipeError, SpeechError
from evoxtral.speech.elevenlabs import PassingError
from training import tagged_texts
from training.corpora import splitting
from training.tagged_texts import TAG_RANGE, Slices

log = logging.getLogger(__name__)
T = TypeVar("T")

ASKED = 10  # scripts of one request
ATTEMPTS = 6  # of one request, for what may be gone when it is asked again
MAX_WAIT = 60.0  # s
MAX_ROUNDS = 8  # requests for a slice, one after another, of which nothing can be used
MAX_CHARACTERS = 300
TIMEOUT = httpx.Timeout(180.0, connect=10.0)  # s
KNOWN = (*tagged_texts.SOUNDS, *tagged_texts.DELIVERIES)  # the tags that are asked for; any of the vocabulary is taken

_TAG = re.compile(r"\[([^\[\]]*)\]")
_OTHER_MARKUP = re.compile(rf"[<>*_#{{}}|\\]|\((?:{'|'.join(map(re.escape, tags.VOCABULARY))})\)", re.IGNORECASE)
_SCHEMA = {
    "type": "object",
    "properties": {"scripts": {"type": "array", "items": {"type": "string"}}},
    "required": ["scripts"],
    "additionalProperties": False,
}
_EDGE = (
    "one of: sounds alone without a word, a single word, the same tag twice, two tags in a row, all words in CAPITALS"
)


@dataclass(frozen=True)
class Writer:
    """url: of the endpoint, as OpenAI's clients take it (with /v1). model: its name there."""

    url: str
    model: str
    seed: int = 42
    concurrency: int = 4
    slices: Slices = Slices()  # noqa: RUF009 - frozen


def patiently(ask: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """What `ask` gives; a busy or broken answer is asked for again, after the time it names. Raises SpeechError."""
    for attempt in range(ATTEMPTS):
        try:
            return ask()
        except PassingError as error:
            if attempt == ATTEMPTS - 1:
                raise SpeechError(str(error)) from None
            sleep(min(MAX_WAIT, error.retry_after if error.retry_after is not None else 2.0**attempt))
    raise AssertionError("the last attempt returns or raises")


def write(folder: Path, count: int, writer: Writer, sleep: Callable[[float], None] = time.sleep) -> list[str]:
    """`count` scripts in the shares of the slices, shuffled by the seed. `folder` keeps them (`written.jsonl`) and what
    was refused with its reason (`refused.jsonl`). Raises SpeechError where the endpoint gives nothing more, RecipeError
    for one that cannot be used; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    path, refused = folder / "written.jsonl", folder / "refused.jsonl"
    rows = _rows(path)
    said = {splitting.sentence(row["text"]) or row["text"] for row in rows}
    wanted, barren = quotas(count, writer.slices), Counter()
    reasons: dict[str, list[str]] = {}
    number = sum(1 for _ in _rows(refused)) + len(rows)  # requests differ after an interruption, too
    with ThreadPoolExecutor(writer.concurrency) as pool, path.open("a") as taken, refused.open("a") as left_out:
        while kinds := _next(rows, wanted, writer.concurrency):
            asks = [_request(writer, kind, number + k, reasons.get(kind, [])) for k, kind in enumerate(kinds)]
            number += len(kinds)
            jobs = [pool.submit(patiently, lambda body=body: _asked(writer, body), sleep) for body in asks]
            answers, failed = _answers(jobs)
            for kind, texts in zip(kinds, answers, strict=True):
                reasons[kind], before = [], len(rows)
                for text in texts:
                    if sum(row["slice"] == kind for row in rows) == wanted[kind]:
                        break
                    if why := wrong(text, kind, said):
                        reasons[kind].append(f"{text!r}: {why}")
                        left_out.write(json.dumps({"slice": kind, "text": text, "why": why}) + "\n")
                        continue
                    said.add(splitting.sentence(text) or text)
                    rows.append({"slice": kind, "text": text})
                    taken.write(json.dumps(rows[-1]) + "\n")
                taken.flush()
                left_out.flush()
                barren[kind] = 0 if len(rows) > before else barren[kind] + 1
                if barren[kind] == MAX_ROUNDS:
                    last = reasons[kind][-1] if reasons[kind] else "it sent no scripts"
                    raise SpeechError(f"{writer.model} writes no {kind} scripts that can be used ({last}).")
            if failed:  # after what came beside it is kept
                raise failed
            log.info("scripts: %d of %d", len(rows), count)
    texts = [row["text"] for row in rows]
    random.Random(writer.seed).shuffle(texts)
    return texts


def _answers(jobs: list[Future]) -> tuple[list[list[str]], EvoxtralError | None]:
    """The scripts of each request, none of one that failed, and the first failure."""
    failed = next((job.exception() for job in jobs if job.exception()), None)
    if failed and not isinstance(failed, EvoxtralError):
        raise failed
    return [[] if job.exception() else job.result() for job in jobs], failed


def quotas(count: int, slices: Slices) -> dict[str, int]:
    """How many scripts each slice has; they add up to `count` (largest remainders)."""
    shares = asdict(slices)
    exact = {name: count * share / sum(shares.values()) for name, share in shares.items()}
    out = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: out[name] - exact[name])[: count - sum(out.values())]:
        out[name] += 1
    return out


def wrong(text: str, kind: str, said: set[str]) -> str:
    """Why a script is refused, "" if it is not. said: what the scripts before it say."""
    names = [name.strip().lower() for name in _TAG.findall(text)]
    rest = _TAG.sub("", text)
    least, most = TAG_RANGE.get(kind, (0, 99))
    if not text.strip():
        return "it is empty"
    if len(text) > MAX_CHARACTERS:
        return f"it is longer than {MAX_CHARACTERS} characters"
    if "[" in rest or "]" in rest:
        return "a bracket is not closed"
    if _OTHER_MARKUP.search(rest):
        return "tags are written in square brackets, and there is no other markup"
    if unknown := [name for name in names if name not in tags.VOCABULARY]:
        return f"[{unknown[0]}] is no tag that is known"
    if not least <= len(names) <= most:
        return f"it has {len(names)} tags, and {kind} ones have {least} to {most}"
    if kind != "edge" and not tags.plain(text):
        return "it has no words"
    if (splitting.sentence(text) or text) in said:
        return "another one says the same"
    return ""


def _next(rows: list[dict], wanted: dict[str, int], most: int) -> list[str]:
    """The slices of the next requests: those that lack most, one request for every ASKED scripts."""
    have = Counter(row["slice"] for row in rows)
    lacking = {name: wanted[name] - have[name] for name in wanted}
    kinds = []
    while len(kinds) < most and max(lacking.values()) > 0:
        kind = max(lacking, key=lacking.__getitem__)
        kinds.append(kind)
        lacking[kind] -= ASKED
    return kinds


def _request(writer: Writer, kind: str, number: int, reasons: list[str]) -> dict:
    rng = random.Random(f"{writer.seed}/{number}")
    domains = ", ".join(name.replace("_", " ") for name in rng.sample(tagged_texts.domains(), 3))
    least, most = TAG_RANGE.get(kind, (0, 2))
    how_many = "no tags at all" if most == 0 else f"{least} to {most} tags each" if kind != "edge" else _EDGE
    asked = (
        f"Write {ASKED} short English scripts for a voice actor, one to three sentences and at most 200 characters "
        f"each, about {domains}, or anything else that people say. Each with {how_many}. Tags stand in square "
        f"brackets where they sound or begin: {', '.join(f'[{name}]' for name in KNOWN)}; use no others and no other "
        "markup. Write a stressed word in CAPITALS in about half of them. No two may say the same."
    )
    if reasons:
        asked += " These were refused: " + "; ".join(reasons[:5])
    return {
        "model": writer.model,
        "messages": [{"role": "user", "content": asked}],
        "temperature": 1.0,
        "seed": rng.getrandbits(31),
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "scripts", "strict": True, "schema": _SCHEMA},
        },
    }


def _asked(writer: Writer, body: dict) -> list[str]:
    """The scripts of one answer; none if it is not as the schema says. Raises PassingError, RecipeError."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.post(f"{writer.url.rstrip('/')}/chat/completions", json=body, headers=headers, timeout=TIMEOUT)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise RecipeError(f"{writer.url!r} is no address: write one such as http://localhost:8000/v1.") from None
    except httpx.ConnectError:
        raise RecipeError(f"Nothing answers at {writer.url}: start the server, or check the address.") from None
    except httpx.HTTPError:
        raise PassingError(f"{writer.url} breaks off its answers: try again later.") from None
    if answer.status_code == 429 or answer.status_code >= 500:
        wait = answer.headers.get("retry-after", "")
        raise PassingError(f"{writer.url} is too busy: try again later.", float(wait) if wait.isdigit() else None)
    if answer.status_code != 200:
        raise RecipeError(_refusal(writer, answer.status_code))
    try:
        content = answer.json()["choices"][0]["message"]["content"]
        found = json.loads(content)["scripts"]
    except (ValueError, KeyError, IndexError, TypeError):
        return []
    return [text.strip() for text in found if isinstance(text, str)] if isinstance(found, list) else []


def _refusal(writer: Writer, status: int) -> str:
    return {
        401: f"{writer.url} wants another key: set OPENAI_API_KEY.",
        403: f"{writer.url} does not let this key use {writer.model}: check its rights.",
        404: f"{writer.url} has no model {writer.model}, or is no endpoint of OpenAI's kind: check --scripts-model.",
        400: f"{writer.url} does not take the request: {writer.model} must support structured output (json_schema).",
    }.get(status, f"{writer.url} answers with status {status}.")


def _rows(path: Path) -> list[dict]:
    """Rows of a file that grows; half a line at its end is cut off."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    path.write_text("".join(lines), encoding="utf-8")
    return [json.loads(line) for line in lines]
