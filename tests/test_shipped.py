"""What ships: the scale model, the figures it was measured with, and the README that shows them."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from evoxtral import audio, metrics, speech, tags
from evoxtral.inference.engine import Engine
from evoxtral.model import backends, checkpoints
from evoxtral.speech import effects
from evoxtral.transcript import Transcript
from training import nonspeech, publish

ROOT = Path(__file__).parents[1]
MEASURED = json.loads((publish.RESULTS / "measured.json").read_text(encoding="utf-8"))
EXAMPLES = json.loads((ROOT / "examples" / "examples.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(checkpoints.resolve("tiny"))


@pytest.fixture(scope="module")
def compared(engine) -> Callable[[str], dict[str, Transcript]]:
    """What each variant hears in an example, decoded once for all tests."""
    return cache(lambda file: engine.compare(ROOT / "examples" / file))


def test_the_scale_model_has_all_variants_in_small_files(engine):
    assert engine.variants == ("base", "sft", "rl")
    sizes = [path.stat().st_size for path in checkpoints.TINY_FOLDER.rglob("*") if path.is_file()]
    assert max(sizes) < 10_000_000 and sum(sizes) < 30_000_000


@pytest.mark.parametrize("pause", [1.1, 1.6, 2.4])
def test_what_is_said_after_a_long_pause_is_not_lost(engine, pause):
    first, second = speech.speak("I left my keys in the car."), speech.speak("The garden is beautiful today.")
    clip = np.concatenate([first.waveform, np.zeros(round(pause * audio.SAMPLE_RATE), np.float32), second.waveform])
    for transcript in engine.compare((audio.SAMPLE_RATE, clip)).values():
        assert "keys" in transcript.plain and "garden" in transcript.plain


def test_the_last_of_four_sentences_in_one_window_is_not_lost(engine):
    """Each behind a pause of a second, which is heard as one."""
    sentences = ("He was jealous.", "She reads books.", "We were happy.", "The car is red.")
    parts = [speech.speak(sentence, seed=7).waveform for sentence in sentences]
    silence = np.zeros(round(0.8 * audio.SAMPLE_RATE), np.float32)  # beside what is silent around each
    clip = np.concatenate([part for spoken in parts for part in (spoken, silence)])
    assert len(engine.segments(audio.levelled(clip))) == 1
    for transcript in engine.compare((audio.SAMPLE_RATE, clip), ("sft", "rl")).values():
        assert "jealous" in transcript.plain and transcript.plain.rstrip(".!").lower().endswith("red")
        assert transcript.text.count("[pause]") >= 2


def test_the_base_scores_exactly_what_writing_no_tag_and_no_stress_scores():
    base, n = MEASURED["variants"]["base"], MEASURED["n"]
    assert base["tag_f1"] == pytest.approx(MEASURED["clips"]["untagged"] / n)
    assert base["tag_hallucination"] == 0
    assert base["emphasis_f1"] == pytest.approx(MEASURED["clips"]["without_emphasis"] / n)


def test_figures_state_their_origin():
    assert MEASURED["n"] >= 300
    assert 0.4 < MEASURED["clips"]["held_out_voices"] / MEASURED["n"] < 0.6
    assert MEASURED["date"] and MEASURED["commit"] and MEASURED["seed"] is not None
    for variant in MEASURED["variants"].values():
        for metric in metrics.METRICS:
            low, high = variant["intervals"][metric.name]
            assert low <= variant[metric.name] <= high


def test_the_readme_shows_the_files_figures():
    assert publish.readme_block() in publish.README.read_text(encoding="utf-8")


@pytest.mark.skipif(not backends.fbgemm_supports(torch.float16, torch.device("cpu")), reason="no FBGEMM here")
def test_float16_weights_transcribe_as_float32_ones(engine, compared):
    """As larger models have them on CPUs without instructions for 16 bits."""
    half = Engine(checkpoints.resolve("tiny"), "cpu", torch.float16)
    exact = None if engine.dtype is torch.float32 else Engine(checkpoints.resolve("tiny"), "cpu", torch.float32)
    for example in EXAMPLES[:2]:
        clip = ROOT / "examples" / example["file"]
        one, other = exact.compare(clip) if exact else compared(example["file"]), half.compare(clip)
        assert {name: t.text for name, t in one.items()} == {name: t.text for name, t in other.items()}


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["label"] for example in EXAMPLES])
def test_on_every_example_adapters_write_tags_and_the_base_does_not(compared, example):
    found = compared(example["file"])
    assert not found["base"].tags and tags.plain(found["base"].text)
    wanted = set(tags.names(example["text"]))
    for variant in ("sft", "rl"):
        heard = {tag.name for tag in found[variant].tags}
        assert len(heard & wanted) >= len(wanted) / 2, found[variant].text


def test_english_is_all_that_the_scale_model_can_detect(engine, compared):
    prompt, file = engine.prompt, EXAMPLES[0]["file"]
    assert prompt.transcription_ids(None) == prompt.transcription_ids("en")
    detected = engine.transcribe(ROOT / "examples" / file, "base", language=None)
    assert detected.text == compared(file)["base"].text


def test_with_a_shorter_window_a_clip_is_cut_and_heard_nearly_the_same():
    checkpoint = checkpoints.resolve("tiny", window=6.0)
    shorter = Engine(checkpoint, "cpu")
    assert shorter.window_seconds == pytest.approx(6.0)
    example = EXAMPLES[0]
    found = shorter.transcribe(ROOT / "examples" / example["file"], "rl")
    assert metrics.summary(metrics.score([(found.text, example["text"])]))["wer"] < 0.2, found.text


def test_another_delivery_of_the_same_words_gets_another_tag(engine):
    """The tag is heard, not guessed from the words."""
    heard = {}
    for delivery in ("whispers", "angry", "shouts"):
        waveform = speech.speak(f"[{delivery}] I told you the door was open.", seed=1).waveform
        transcript = engine.transcribe((audio.SAMPLE_RATE, waveform), "rl")
        heard[delivery] = {tag.name for tag in transcript.tags}
    assert sum(delivery in names for delivery, names in heard.items()) >= 2, heard


@pytest.mark.parametrize("example", EXAMPLES[:2], ids=[example["label"] for example in EXAMPLES[:2]])
def test_well_transcribed_speech_is_not_doubtful(compared, example):
    for transcript in compared(example["file"]).values():
        assert transcript.confidence > 0.7 and not transcript.doubtful


@pytest.mark.parametrize("kind", nonspeech.KINDS)
def test_non_speech_gives_no_text_or_a_warning(engine, kind):
    waveform = effects.peak(nonspeech.KINDS[kind](np.random.default_rng(3), 3.0), 0.3).astype(np.float32)
    transcript = engine.transcribe((audio.SAMPLE_RATE, waveform))
    assert not transcript.text or transcript.doubtful, transcript.text
