"""The engine against the baseline: generate() of transformers, one variant at a time, adapters applied
by PEFT.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import save_adapter, spoken, tone
from peft import PeftModel
from transformers import VoxtralForConditionalGeneration

from evoxtral.audio import SAMPLE_RATE
from evoxtral.errors import AudioError, CheckpointError, EvoxtralError
from evoxtral.inference import streaming
from evoxtral.inference.engine import Engine
from evoxtral.inference.sampling import Decoding
from evoxtral.model import backends, cache, checkpoints, encoder, precision
from evoxtral.model.checkpoints import Checkpoint
from evoxtral.transcript import Transcript

TO_THE_END = Decoding(max_tokens=40, stop_loops=False)  # the reference has no stop rule but its budget


def reference_ids(
    checkpoint: Checkpoint, variant: str, engine: Engine, waveform: np.ndarray, language="en"
) -> list[int]:
    """The seed's own snippet, with the adapter's tensors landing: processor, base, PEFT, generate()."""
    model = VoxtralForConditionalGeneration.from_pretrained(checkpoint.base, dtype=torch.float32).eval()
    if variant != "base":
        model = PeftModel.from_pretrained(model, checkpoint.adapters[variant])
    inputs = engine.prompt.processor.apply_transcription_request(
        audio=[waveform], format=["WAV"], sampling_rate=SAMPLE_RATE, language=language, model_id="any"
    )
    written = model.generate(**inputs, max_new_tokens=TO_THE_END.max_tokens, do_sample=False)
    return written[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("language", ["en", None])
def test_greedy_tokens_equal_generate_run_per_variant(engine, checkpoint, language):
    waveform = tone(4.0)
    rows = engine.batch([waveform], language=language, decoding=TO_THE_END)[0]
    texts = set()
    for variant in engine.variants:
        ids = reference_ids(checkpoint, variant, engine, waveform, language)
        (transcript,) = rows[variant]
        assert [t.text for t in transcript.cues[0].tokens] == engine.prompt.pieces(until_end(ids, engine))
        texts.add(transcript.text)
    assert len(texts) == 3, "the fixture's adapters must change what is written"


def test_prefill_in_chunks_gives_the_same_tokens(engine, monkeypatch):
    monkeypatch.setattr(cache, "_CHUNK", 1000)
    whole = engine.batch([tone(4.0)], decoding=TO_THE_END, samples=2)[0]
    monkeypatch.setattr(cache, "_CHUNK", 50)
    in_chunks = engine.batch([tone(4.0)], decoding=TO_THE_END, samples=2)[0]
    assert_same(whole, in_chunks)


def test_both_attention_implementations_give_the_same_tokens(checkpoint, monkeypatch):
    """A CPU takes the faster one."""
    heard = []
    for attention in (encoder._chunked_attention, torch.nn.functional.scaled_dot_product_attention):
        monkeypatch.setattr(encoder, "_faster_attention", lambda _, attention=attention: attention)
        heard += Engine(checkpoint, device="cpu").batch([tone(4.0)], decoding=TO_THE_END)
    assert_same(*heard)


@pytest.mark.parametrize(
    ("small", "large", "fastest", "taken"),
    [
        (1e9, 2e9, torch.bfloat16, torch.float32),
        (0, 1e9, torch.bfloat16, torch.bfloat16),
        (0, 1e9, torch.float32, torch.float32),
        (0, 1e9, torch.float16, torch.float16),
        (0, 0, torch.bfloat16, torch.bfloat16),
        (0, 0, torch.float16, torch.float16),
        (0, 0, torch.float32, torch.bfloat16),
    ],
)
def test_a_cpu_has_small_models_in_float32_and_large_ones_in_16_bits(monkeypatch, small, large, fastest, taken):
    monkeypatch.setattr(precision, "SMALL_MODEL", small)
    monkeypatch.setattr(precision, "LARGE_MODEL", large)
    monkeypatch.setattr(precision, "product_duration", lambda dtype: dtype is not fastest)
    monkeypatch.setattr(backends, "fbgemm_supports", lambda weights, _: weights is fastest is torch.float16)
    assert precision.default_dtype(1e7) is taken


def assert_same(one: dict[str, list[Transcript]], other: dict[str, list[Transcript]]) -> None:
    """The same tokens, and the same certainty of each."""
    assert list(one) == list(other)
    for variant in one:
        for a, b in zip(one[variant], other[variant], strict=True):
            assert [t.text for t in a.cues[0].tokens] == [t.text for t in b.cues[0].tokens]
            assert [t.probability for t in a.cues[0].tokens] == pytest.approx(
                [t.probability for t in b.cues[0].tokens], abs=1e-4
            )


def until_end(ids: list[int], engine: Engine) -> list[int]:
    return ids[: ids.index(engine.prompt.eos_id)] if engine.prompt.eos_id in ids else ids


def test_a_row_does_not_depend_on_what_else_is_in_its_batch(engine):
    waveforms = [tone(3.0 + 2 * i, seed=i) for i in range(2)]
    together = engine.batch(waveforms, decoding=TO_THE_END)
    for waveform, columns in zip(waveforms, together, strict=True):
        for variant in engine.variants:
            alone = engine.batch([waveform], variants=(variant,), decoding=TO_THE_END)[0][variant]
            assert columns[variant][0].text == alone[0].text


@pytest.mark.parametrize("rows", [1, 7])
def test_bounding_the_rows_of_a_batch_changes_nothing_but_memory(engine, checkpoint, rows):
    def texts(transcripts):
        return {variant: transcript.text for variant, transcript in transcripts.items()}

    bounded = Engine(checkpoint, device="cpu", dtype=torch.float32, rows=rows)
    short = Decoding(max_tokens=6)
    waveforms = [tone(2.0 + i, seed=i) for i in range(3)]
    for some, all_ in zip(
        bounded.batch(waveforms, decoding=short), engine.batch(waveforms, decoding=short), strict=True
    ):
        assert {v: t[0].text for v, t in some.items()} == {v: t[0].text for v, t in all_.items()}
    long = (SAMPLE_RATE, np.concatenate([spoken(9.0, seed=i) for i in range(3)]))
    assert texts(bounded.compare(long, decoding=short)) == texts(engine.compare(long, decoding=short))


def test_the_rows_of_a_batch_are_bounded_by_memory_not_by_the_clip(engine):
    from evoxtral.inference.engine import BATCH_MEMORY, MAX_ROWS, _rows_that_fit
    from evoxtral.model.checkpoints import published_config

    assert engine.rows == MAX_ROWS, "a small model is not held back"
    on_cpu = _rows_that_fit(BATCH_MEMORY["cpu"], published_config(), engine.prompt, torch.bfloat16)
    on_cuda = _rows_that_fit(BATCH_MEMORY["cuda"], published_config(), engine.prompt, torch.bfloat16)
    assert 3 <= on_cpu < 24 and 64 <= on_cuda <= MAX_ROWS


def test_a_stream_grows_and_ends_with_the_result_of_compare(engine):
    clip = (SAMPLE_RATE, spoken(14.0))
    looks = list(engine.stream(clip))
    assert [look["rl"].done for look in looks] == [False] * (len(looks) - 1) + [True]
    assert list(looks[0]) == list(engine.variants)
    for earlier, later in zip(looks, looks[1:], strict=False):
        for variant in engine.variants:
            assert later[variant].token_count >= earlier[variant].token_count - 32  # a loop takes its repeats back
            assert later[variant].elapsed >= earlier[variant].elapsed
    compared = engine.compare(clip)
    assert {v: t.text for v, t in looks[-1].items()} == {v: t.text for v, t in compared.items()}
    assert len(compared["sft"].cues) == 2 and compared["sft"].duration == pytest.approx(14.0)


def test_time_of_the_caller_is_not_counted_and_makes_updates_rarer(monkeypatch):
    now = 0.0
    monkeypatch.setattr(streaming.time, "perf_counter", lambda: now)
    clock = streaming.Clock()
    assert clock.until_update == pytest.approx(streaming.UPDATE_EVERY)
    now = 1.0
    assert clock.update_due and clock.elapsed == 1.0
    with clock.paused():
        now += 0.3
    assert clock.elapsed == pytest.approx(1.0)
    assert clock.until_update == pytest.approx(1.2), "four times as long as the caller took for the last"
    now += 1.1
    assert not clock.update_due
    now += 0.2
    assert clock.update_due and clock.elapsed == pytest.approx(2.3)


def test_a_full_device_gives_one_sentence(engine, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(engine, "_prompts", full)
    with pytest.raises(EvoxtralError, match="no memory left for this clip: try a shorter one"):
        engine.compare((SAMPLE_RATE, tone(2.0)))


def test_silence_is_not_decoded(engine):
    silence = np.zeros(3 * SAMPLE_RATE, np.float32)
    for transcript in engine.compare((SAMPLE_RATE, silence)).values():
        assert transcript.text == "" and transcript.done and not transcript.truncated and transcript.duration == 3.0
    spoken, silent = engine.batch([tone(2.0), silence], samples=2)
    assert all(t.text == "" for copies in silent.values() for t in copies)
    assert all(t.cues[0].tokens for copies in spoken.values() for t in copies)


def test_every_token_has_the_probability_the_model_gave_it(engine, checkpoint):
    waveform = tone(3.0)
    (transcript,) = engine.batch([waveform], ("base",), decoding=TO_THE_END)[0]["base"]
    model = VoxtralForConditionalGeneration.from_pretrained(checkpoint.base, dtype=torch.float32).eval()
    ids = reference_ids(checkpoint, "base", engine, waveform)
    prompt = engine.prompt.transcription_ids("en")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + ids]), input_features=engine.prompt.log_mel([waveform])).logits
    expected = logits[0, len(prompt) - 1 : -1].softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
    written = [token.probability for token in transcript.cues[0].tokens]
    np.testing.assert_allclose(written, expected[: len(written)].numpy(), atol=1e-4)


def test_sampling_repeats_with_its_seed_and_spreads_over_samples(engine):
    waveforms = [tone(2.0, seed=1), tone(5.0, seed=2)]
    sampling = Decoding(temperature=1.0, top_p=0.9, seed=3, max_tokens=12)

    def texts(waveforms, decoding, **settings):
        return [[t.text for t in columns["rl"]] for columns in engine.batch(waveforms, decoding=decoding, **settings)]

    first = texts(waveforms, sampling, samples=4)
    assert first == texts(waveforms, sampling, samples=4)
    assert len(set(first[0])) > 1
    assert first != texts(waveforms, Decoding(temperature=1.0, top_p=0.9, seed=4, max_tokens=12), samples=4)
    # What a clip gets is its own: neither the other clips nor the other variants move it.
    assert texts(waveforms[:1], sampling, samples=4, variants=("rl",)) == first[:1]


def test_an_adapter_that_leaves_the_encoder_alone_shares_its_output(engine, checkpoint, tmp_path, monkeypatch):
    save_adapter(checkpoint.base, tmp_path / "text", seed=5, target_modules=r".*language_model.*\.[qkvo]_proj")
    mixed = Checkpoint("mixed", checkpoint.base, {"text": str(tmp_path / "text"), "rl": checkpoint.adapters["rl"]})
    mixed_engine = Engine(mixed, device="cpu", dtype=torch.float32)
    seen = []
    mixed_engine._encoder.layers[0].register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    waveform = tone(4.0)
    columns = mixed_engine.batch([waveform], decoding=TO_THE_END)[0]
    mixed_engine.batch([waveform], ("text",), decoding=TO_THE_END)
    assert sum(seen) == 2 + 1, "windows encoded: base and text together, rl on its own; then one"
    for variant in mixed.variants:
        expected = engine.prompt.pieces(until_end(reference_ids(mixed, variant, engine, waveform), engine))
        assert [t.text for t in columns[variant][0].cues[0].tokens] == expected


def test_audio_embeds_are_the_same_in_one_batch_and_one_by_one(checkpoint, tmp_path):
    """As on CUDA and as on a CPU, for variants that share the base's audio_embeds and variants that do not."""
    save_adapter(checkpoint.base, tmp_path / "text", seed=5, target_modules=r".*language_model.*\.[qkvo]_proj")
    save_adapter(checkpoint.base, tmp_path / "project", seed=6, target_modules=["multi_modal_projector.linear_1"])
    adapters = {name: str(tmp_path / name) for name in ("text", "project")}
    mixed = Engine(Checkpoint("mixed", checkpoint.base, adapters | checkpoint.adapters), "cpu", torch.float32)
    mels = mixed.prompt.log_mel([tone(4.0), tone(2.0, seed=1)], "cpu")
    with torch.inference_mode():
        one_by_one = mixed._encoder(mels, mixed.variants)
        torch.testing.assert_close(one_by_one, mixed._encoder._batch(mels, mixed.variants)[0], atol=1e-5, rtol=1e-4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with torch.inference_mode():
            assert torch.equal(one_by_one, mixed._encoder(mels, mixed.variants)), "windows side by side"
            alone = mixed._encoder(mels[:1], ("rl",))
            torch.testing.assert_close(alone, one_by_one[-2:-1], atol=1e-5, rtol=1e-4)
    finally:
        torch.set_num_threads(before)
    audio_embeds = dict(zip(mixed.variants, one_by_one.chunk(len(mixed.variants)), strict=True))
    shared = [name for name in mixed.variants if torch.equal(audio_embeds[name], audio_embeds["base"])]
    assert shared == ["base", "text"]


def test_an_abandoned_stream_leaves_the_engine_usable(engine):
    stream = engine.stream((SAMPLE_RATE, spoken(9.0)))
    next(stream)
    stream.close()
    assert engine.compare((SAMPLE_RATE, tone(2.0)))["base"].done


def test_threads_get_the_same_transcripts_as_one_after_the_other(engine):
    clips = [(SAMPLE_RATE, tone(3.0 + i, seed=i)) for i in range(3)]
    asked = [("base", "rl"), ("sft",), None]
    expected = [engine.compare(c, v) for c, v in zip(clips, asked, strict=True)]
    results: dict[int, dict] = {}
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: engine.compare(clips[i], asked[i])})) for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, transcripts in enumerate(expected):
        assert {v: t.text for v, t in results[i].items()} == {v: t.text for v, t in transcripts.items()}


@pytest.mark.gpu
def test_a_device_too_small_for_the_weights_is_reported(checkpoint, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(checkpoints, "load_base", full)
    with pytest.raises(CheckpointError, match="random does not fit the memory .* or the model tiny"):
        Engine(checkpoint)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_captured_step_equals_the_cpu_while_other_threads_allocate(engine, checkpoint):
    def more_and_more() -> None:
        blocks = []
        while not done.is_set() and len(blocks) < 1000:
            blocks.append(torch.empty(2**21, device="cuda"))  # kept, so that the next ones need cudaMalloc
            on_cuda.prompt.log_mel([tone(1.0)], "cuda")

    on_cuda, done = Engine(checkpoint, device="cuda", dtype=torch.float32), threading.Event()
    with ThreadPoolExecutor() as pool:
        other = pool.submit(more_and_more)
        try:
            for seed, names in enumerate([None, ("rl",), None, ("base", "rl")]):  # sessions are reused and replaced
                waveforms = [tone(3.0, seed), spoken(8.0, seed + 1)]
                ours = on_cuda.batch(waveforms, names, decoding=TO_THE_END)
                for mine, expected in zip(ours, engine.batch(waveforms, names, decoding=TO_THE_END), strict=True):
                    assert {v: t[0].text for v, t in mine.items()} == {v: t[0].text for v, t in expected.items()}
        finally:
            done.set()
        other.result()


def test_text_at_its_budget_is_reported_as_truncated(engine):
    assert engine.transcribe((SAMPLE_RATE, tone(3.0)), decoding=Decoding(max_tokens=3)).truncated


def test_errors_are_one_sentence(engine, checkpoint, tmp_path):
    clip = (SAMPLE_RATE, tone(2.0))
    with pytest.raises(EvoxtralError, match="no variant 'ppo'.*base, sft, rl"):
        engine.compare(clip, variants=("ppo",))
    with pytest.raises(EvoxtralError, match="'english' is not a language code"):
        engine.compare(clip, language="english")
    with pytest.raises(AudioError, match="limit"):
        engine.compare(clip, max_seconds=1.0)
    with pytest.raises(CheckpointError, match="no config.json"):
        Engine(Checkpoint("empty", str(tmp_path)))
