"""Requests that are decoded together get what each gets alone, in turn, and give their places back."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import httpx
import numpy as np
import pytest
import torch
from conftest import spoken, tone
from served import served
from waiting import wait_until

from evoxtral import audio
from evoxtral.audio import SAMPLE_RATE
from evoxtral.inference.batch import Batch
from evoxtral.inference.engine import Engine
from evoxtral.inference.sampling import Decoding, Row
from evoxtral.inference.scheduler import Abandoned
from evoxtral.model import checkpoints, duration, threads
from evoxtral.serve.api import create_app
from evoxtral.serve.limits import Limits
from evoxtral.speech.synthesis import VOICES, speak

SENTENCES = ("Please close the door.", "[laughs] You did what?", "The train leaves at nine.", "I never said that.")


@pytest.fixture(scope="module")
def scale() -> Engine:
    """The scale model: what it writes of its own voice does not hang on the last digit."""
    return Engine(checkpoints.resolve("tiny"), device="cpu", dtype=torch.float32)


@pytest.fixture
def one_at_a_time(monkeypatch):
    """One window is prepared after another, as on one core."""
    monkeypatch.setattr(threads, "MAX_TOGETHER", 1)


@cache
def said(index: int) -> np.ndarray:
    """A clip (T,) of the embedded voice; the later the longer."""
    text = " ".join(SENTENCES[(index + i) % len(SENTENCES)] for i in range(1 + index % 4))
    return speak(text, VOICES[index % 2], seed=index).waveform.astype(np.float32)


def tokens(transcripts) -> dict[str, list[str]]:
    return {name: [token.text for cue in one.cues for token in cue.tokens] for name, one in transcripts.items()}


@pytest.fixture
def two_threads():
    """As on two cores: tests have one thread."""
    before = torch.get_num_threads()
    yield lambda: torch.set_num_threads(2)
    torch.set_num_threads(before)


def test_greedy_tokens_in_a_crowd_are_those_of_a_request_alone(scale, two_threads):
    asked = [(said(i), (("rl",), None, ("base", "sft"))[i % 3]) for i in range(6)]
    alone = [tokens(scale.compare((SAMPLE_RATE, clip), variants)) for clip, variants in asked]
    two_threads()
    with ThreadPoolExecutor(len(asked)) as visitors:
        crowd = [*visitors.map(lambda one: tokens(scale.compare((SAMPLE_RATE, one[0]), one[1])), asked)]
    assert crowd == alone
    assert max(scale.scheduler.steps) > 5, "they were decoded together"
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2, "as it was asked"
    assert scale.scheduler.rows == scale.scheduler.waiting == 0


def test_a_variant_shown_first_has_ended_before_the_others_begin_and_no_token_differs(scale):
    clip = (SAMPLE_RATE, np.concatenate([said(3), np.zeros(SAMPLE_RATE, np.float32), said(2)]))
    *growing, last = scale.stream(clip, first="rl")
    alone = [step for step in growing if not step["rl"].done]
    others = [step for step in growing if step["rl"].done]
    assert alone and others
    assert not any(cue.tokens for step in alone for name in ("base", "sft") for cue in step[name].cues)
    assert all(tokens(step)["rl"] == tokens(last)["rl"] for step in others), "it is final"
    assert [one.done for one in last.values()] == [True] * 3
    assert list(last) == ["base", "sft", "rl"]
    assert last["rl"].elapsed < last["base"].elapsed
    together = scale.compare(clip)
    assert tokens(last) == tokens(together)
    assert [one.confidence for one in last.values()] == pytest.approx([one.confidence for one in together.values()])
    assert len(together["rl"].cues) > 1


def test_what_is_sampled_does_not_hang_on_the_order(scale):
    clip, sampling = (SAMPLE_RATE, said(0)), Decoding(temperature=1.0, seed=5, max_tokens=12)
    *_, last = scale.stream(clip, decoding=sampling, first="sft")
    assert tokens(last) == tokens(scale.compare(clip, decoding=sampling))


@pytest.mark.parametrize("how", ["gone", "closed"])
def test_who_has_read_the_first_and_leaves_does_not_wait_for_the_others(engine, how):
    gone = threading.Event()
    endless = Decoding(max_tokens=40, stop_loops=False)
    stream = engine.stream((SAMPLE_RATE, spoken(9.0)), decoding=endless, gone=gone.is_set, first="rl")
    step = next(step for step in stream if step["rl"].done)
    assert not step["base"].done and not step["base"].text
    if how == "closed":
        stream.close()
    else:
        gone.set()
        with pytest.raises(Abandoned):
            list(stream)
    wait_until(lambda: not engine.scheduler._requests)
    assert engine.scheduler.rows == engine.scheduler.waiting == 0


def test_one_variant_comes_first_where_all_of_them_take_long(engine, monkeypatch):
    def unexpected(config):
        raise AssertionError("a small model's duration is not measured")

    monkeypatch.setattr(duration, "clip_seconds", unexpected)
    monkeypatch.delitem(vars(engine), "seconds", raising=False)
    assert engine.shown_first() is None
    for seconds, first in ((42.0, "rl"), (3.0, None)):
        monkeypatch.delitem(vars(engine), "seconds")
        monkeypatch.setattr(duration, "work", lambda config: (1e12, 3.6e9))
        monkeypatch.setattr(duration, "clip_seconds", lambda config, seconds=seconds: seconds)
        assert engine.shown_first() == first
        assert engine.shown_first(("rl",)) is None
    monkeypatch.setitem(vars(engine), "seconds", 42.0)
    assert engine.shown_first(("sft", "base")) == "sft"


@torch.inference_mode()
@pytest.mark.parametrize("static", [False, True], ids=["as on a CPU", "as on CUDA"])
def test_rows_that_come_and_go_get_the_logits_of_a_row_alone(engine, static):
    """Variants in uneven numbers, prompts of two lengths, rows that move: the probability of each token stays."""
    generator = torch.Generator().manual_seed(0)
    width, names = len(engine._text.norm), engine.variants
    prompts = [torch.randn(1, 7 + 4 * (i % 2), width, generator=generator) for i in range(7)]
    rows = [Row(6 + 3 * (i % 3), names[i % 5 % 3], Decoding(stop_loops=False)) for i in range(7)]

    def alone(prompt: torch.Tensor, row: Row) -> list[float]:
        """The probabilities of the tokens that the row was given, from a batch of its own."""
        again = Row(row.budget, row.variant, row.decoding)
        batch = Batch(engine._text, eos_id=-1, max_rows=8, static=static)
        batch.join(prompt, [again], (row.variant,))
        batch.cache.token[again.slot] = row.ids[0]
        found = [again.probabilities[0]]
        for token in row.ids[1:]:
            with engine._mix.using((row.variant,)):
                logits = batch.cache.step(batch.cache.token[: len(batch.rows)])
            found.append(logits[again.slot].softmax(-1)[token].item())
            batch.cache.token[again.slot] = token
        return found

    batch = Batch(engine._text, eos_id=-1, max_rows=64, static=static)
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        batch.join(prompt, [row], (row.variant,))
        batch.advance(1 + i % 2)
        batch.leave([row for row in batch.occupied if row.done])
    while batch.occupied:
        batch.advance(2)
        batch.leave([row for row in batch.occupied if row.done])
    for prompt, row in zip(prompts, rows, strict=True):
        assert len(row.ids) == row.budget
        assert row.probabilities == pytest.approx(alone(prompt, row), abs=1e-4)
    assert batch.cache is None, "its memory is given back"


def test_a_long_clip_does_not_keep_a_short_one_waiting(engine, monkeypatch, one_at_a_time):
    order: list[int] = []
    prepare = engine.scheduler._prepare
    begun, go = threading.Event(), threading.Event()

    def noted(windows):
        order.extend(len(request.windows) for request, _ in windows)
        begun.set()
        go.wait()
        prepare(windows)

    monkeypatch.setattr(engine.scheduler, "_prepare", noted)
    long = (SAMPLE_RATE, np.concatenate([spoken(9.0, seed) for seed in range(4)]))
    decoding = Decoding(max_tokens=30, stop_loops=False)
    with ThreadPoolExecutor(2) as visitors:
        first = visitors.submit(engine.compare, long, ("rl",), decoding=decoding)
        begun.wait()
        second = visitors.submit(engine.compare, (SAMPLE_RATE, tone(2.0)), ("rl",), decoding=decoding)
        wait_until(lambda: len(engine.scheduler._requests) == 2)
        go.set()
        assert first.result()["rl"].done and second.result()["rl"].done
    assert order[0] > 2 and order[1] == 1, order


def test_a_client_with_many_requests_does_not_keep_a_client_with_one_waiting(engine, monkeypatch, one_at_a_time):
    order: list[str] = []
    prepare = engine.scheduler._prepare
    begun, go = threading.Event(), threading.Event()

    def noted(windows):
        order.extend(request.client for request, _ in windows)
        begun.set()
        go.wait()
        prepare(windows)

    def ask(client: str) -> bool:
        *_, last = engine.stream((SAMPLE_RATE, tone(2.0)), ("rl",), decoding=Decoding(max_tokens=9), client=client)
        return last["rl"].done

    monkeypatch.setattr(engine.scheduler, "_prepare", noted)
    with ThreadPoolExecutor(7) as visitors:
        many = [visitors.submit(ask, "many")]
        begun.wait()
        many += [visitors.submit(ask, "many") for _ in range(5)]
        wait_until(lambda: len(engine.scheduler._requests) == 6)
        one = visitors.submit(ask, "one")
        wait_until(lambda: len(engine.scheduler._requests) == 7)
        go.set()
        assert one.result() and all(asked.result() for asked in many)
    assert order == ["many", "one", *["many"] * 5]


@pytest.mark.parametrize("case", ["overdue", "not yet", "nobody reads along"])
def test_text_goes_on_between_two_preparations_where_it_is_overdue(engine, monkeypatch, one_at_a_time, case):
    done = ""
    scheduler, prepare, decode = engine.scheduler, engine.scheduler._prepare, engine.scheduler._round

    def noted(letter, step, *given):
        nonlocal done
        done += letter
        step(*given)

    monkeypatch.setattr("evoxtral.inference.scheduler.MAX_STALL", 1e9 if case == "not yet" else -1.0)
    monkeypatch.setattr(scheduler, "_prepare", lambda windows: noted("p", prepare, windows))
    monkeypatch.setattr(scheduler, "_round", lambda: noted("r", decode))
    clips, decoding = [spoken(9.0, seed) for seed in range(3)], Decoding(max_tokens=40, stop_loops=False)
    if case == "nobody reads along":
        engine.batch(clips, ("rl",), decoding=decoding)
    else:
        engine.compare((SAMPLE_RATE, np.concatenate(clips)), ("rl",), decoding=decoding)
    windows = done.count("p")
    assert windows > 2
    assert done.startswith(("pr" if case == "overdue" else "p") * windows), done


def test_the_rows_of_who_has_gone_are_free_at_the_next_step(engine, monkeypatch):
    rows: list[int] = []
    scheduler, decode, gone = engine.scheduler, engine.scheduler._round, threading.Event()

    def noted():
        rows.append(len(scheduler._batch.occupied))
        if rows[-1] == 4:
            gone.set()
        decode()

    monkeypatch.setattr(scheduler, "_round", noted)
    clip, long = (SAMPLE_RATE, tone(2.0)), Decoding(max_tokens=400, stop_loops=False)
    with ThreadPoolExecutor(2) as visitors:
        leaving = visitors.submit(lambda: [*engine.stream(clip, decoding=long, gone=gone.is_set)])
        staying = visitors.submit(engine.transcribe, clip, "rl", decoding=long)
        assert staying.result().done
        with pytest.raises(Abandoned):
            leaving.result()
    assert rows.count(4) == 1 and rows[rows.index(4) + 1] == 1, rows


def test_who_has_gone_gives_the_rows_back_and_others_go_on(engine):
    gone = threading.Event()
    clip = (SAMPLE_RATE, spoken(9.0))
    endless = Decoding(max_tokens=600, stop_loops=False)
    stream = engine.stream(clip, decoding=endless, gone=gone.is_set)
    next(stream)
    gone.set()
    with pytest.raises(Abandoned):
        list(stream)
    assert engine.scheduler.rows == 0
    assert engine.transcribe((SAMPLE_RATE, tone(2.0))).done


def test_a_request_that_fails_leaves_the_others_alone(engine, monkeypatch):
    prompts = engine._prompts

    def failing(ids, log_mel, selected):
        if selected == ("sft",):
            raise ZeroDivisionError("of one request")
        return prompts(ids, log_mel, selected)

    monkeypatch.setattr(engine, "_prompts", failing)
    with ThreadPoolExecutor(2) as visitors:
        good = visitors.submit(engine.transcribe, (SAMPLE_RATE, tone(3.0)), "rl")
        bad = visitors.submit(engine.transcribe, (SAMPLE_RATE, tone(3.0)), "sft")
        assert good.result().done
        with pytest.raises(ZeroDivisionError, match="of one request"):
            bad.result()


def test_requests_of_different_settings_share_a_batch_and_keep_theirs(engine):
    clip = (SAMPLE_RATE, tone(3.0))
    settings = [Decoding(max_tokens=9), Decoding(temperature=1.0, seed=5, max_tokens=12), Decoding(max_tokens=5)]
    with ThreadPoolExecutor(3) as visitors:
        found = [*visitors.map(lambda decoding: engine.transcribe(clip, "rl", decoding=decoding), settings)]
    assert [one.token_count <= decoding.max_tokens for one, decoding in zip(found, settings, strict=True)] == [True] * 3


def test_ten_clients_all_get_their_own_text_and_metrics_tell_of_batches(scale):
    clips = [audio.wav_bytes(said(i)) for i in range(4)]
    expected = [scale.transcribe(clip).text for clip in clips]
    assert len(set(expected)) == 4
    with served(create_app(scale, Limits(requests=10))) as url:

        def visit(number: int) -> bool:
            with httpx.Client(timeout=None) as client:
                index = number % len(clips)
                answer = client.post(f"{url}/transcribe", files={"file": ("a.wav", clips[index])})
                return answer.json()["variants"]["rl"]["text"] == expected[index]

        with ThreadPoolExecutor(10) as visitors:
            assert all(visitors.map(visit, range(10)))
        metrics = httpx.get(f"{url}/metrics").text
    samples = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert float(samples["evoxtral_rows"]) == float(samples["evoxtral_windows_waiting"]) == 0
    buckets = {key: float(value) for key, value in samples.items() if key.startswith("evoxtral_batch_rows_bucket")}
    assert buckets['evoxtral_batch_rows_bucket{le="+Inf"}'] > buckets['evoxtral_batch_rows_bucket{le="1.0"}']
