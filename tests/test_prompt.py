"""What the model is asked, against Voxtral's own processor."""

import base64
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MERGES, tiny_config, tone
from transformers import VoxtralConfig

from evoxtral.audio import SAMPLE_RATE, wav_bytes
from evoxtral.errors import CheckpointError, EvoxtralError
from evoxtral.inference.prompt import Prompt
from evoxtral.model.checkpoints import load_config, published_config
from training.tokenizer import write_processor


def folder_with_window(folder, seconds: int, hop: int, stack: int) -> VoxtralConfig:
    config = tiny_config()
    config.audio_config.max_source_positions = seconds * SAMPLE_RATE // (2 * hop)
    config.audio_config.intermediate_size = stack * config.audio_config.hidden_size
    config.save_pretrained(folder)
    write_processor(folder, MERGES, seconds, hop)
    return config


@pytest.fixture(params=[(10, 160, 4), (30, 160, 4), (10, 320, 2)], ids=["10 s", "30 s", "10 s, 20 ms frames"])
def prompt(request, tmp_path) -> Prompt:
    """Windows of the published model, shorter ones, and coarser mel frames."""
    return Prompt(tmp_path, folder_with_window(tmp_path, *request.param))


def request(prompt: Prompt, waveform: np.ndarray, language: str | None):
    return prompt.processor.apply_transcription_request(
        audio=[waveform], format=["WAV"], sampling_rate=SAMPLE_RATE, language=language, model_id="any"
    )


@pytest.mark.parametrize("language", ["en", "fr", None])
def test_transcription_ids_are_the_processors_own_for_a_clip_of_any_length(prompt, language):
    for seconds in (0.5, 7.0, prompt.window_seconds):
        expected = request(prompt, tone(seconds), language)["input_ids"][0].tolist()
        assert prompt.transcription_ids(language) == expected
    assert prompt.transcription_ids(language).count(prompt.audio_id) == prompt.audio_tokens
    assert prompt.audio_tokens == prompt.window_seconds * 12.5


def test_features_are_the_processors_own_and_fill_the_window(prompt):
    waveforms = [tone(2.0), 0.01 * tone(5.0, seed=1), tone(prompt.window_seconds, seed=2), 3 * tone(1.0)]
    mels = prompt.log_mel(waveforms)
    assert mels.shape == (4, 128, prompt.window_frames) and mels.dtype == torch.float32
    for mel, waveform in zip(mels, waveforms, strict=True):
        torch.testing.assert_close(mel, request(prompt, waveform, "en")["input_features"][0], atol=1e-5, rtol=0)


def test_chat_ids_are_the_processors_own(prompt):
    audio = base64.b64encode(wav_bytes(tone(4.0))).decode()
    content = [{"type": "audio", "base64": audio}, {"type": "text", "text": "How is it said?"}]
    expected = prompt.processor.apply_chat_template([{"role": "user", "content": content}])
    assert prompt.chat_ids("How is it said?") == expected["input_ids"][0].tolist()
    assert expected["input_features"].shape[0] == 1


def test_a_clip_of_two_windows_is_two_windows_for_the_processor_too(prompt):
    inputs = request(prompt, tone(prompt.window_seconds + 1), "en")
    assert inputs["input_features"].shape == (2, 128, prompt.window_frames)
    assert (inputs["input_ids"][0] == prompt.audio_id).sum() == 2 * prompt.audio_tokens


def test_a_waveform_longer_than_the_window_is_rejected(prompt):
    with pytest.raises(ValueError, match="longer than the window"):
        prompt.log_mel([tone(prompt.window_seconds + 0.1)])


@pytest.mark.parametrize("language", ["english", "xx", "", "EN-us"])
def test_an_invalid_language_code_is_rejected_in_one_sentence(engine, language):
    with pytest.raises(EvoxtralError, match="is not a language code: use two letters"):
        engine.prompt.transcription_ids(language)


def test_a_model_of_one_language_detects_that_one(checkpoint):
    config = load_config(Path(checkpoint.base))
    several = Prompt(checkpoint.base, config)
    config.languages = ["en"]
    one = Prompt(checkpoint.base, config)
    assert one.transcription_ids(None) == several.transcription_ids("en") != several.transcription_ids(None)


@pytest.mark.parametrize("languages", [5, [5], ["english"]])
def test_a_damaged_list_of_languages_is_an_error_in_one_sentence(checkpoint, languages):
    config = load_config(Path(checkpoint.base))
    config.languages = languages
    with pytest.raises(EvoxtralError, match="is not a language code|cannot be used .*: repair it"):
        Prompt(checkpoint.base, config)


@pytest.mark.parametrize("max_pause", [0, "long"])
def test_a_damaged_longest_pause_is_an_error_in_one_sentence(checkpoint, max_pause):
    config = load_config(Path(checkpoint.base))
    config.max_pause = max_pause
    with pytest.raises(EvoxtralError, match="cannot be used .*: repair it"):
        Prompt(checkpoint.base, config)


def test_returned_ids_are_copies(engine):
    engine.prompt.transcription_ids("en").append(0)
    assert engine.prompt.transcription_ids("en")[-1] != 0


@pytest.mark.parametrize("text", ["", "[sighs] I thought... NO!", "naïve 漢字 🙂 [laughs]", " spaces  and\n"])
def test_text_survives_encoding_and_its_pieces_join_to_it(engine, text):
    ids = engine.prompt.encode(text)
    pieces = engine.prompt.pieces(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == text == engine.prompt.decode(ids)


def test_a_character_appears_with_the_token_that_completes_it(engine):
    ids = engine.prompt.encode("é")
    assert len(ids) == 2, "the fixture's vocabulary has no merge for it"
    assert engine.prompt.pieces(ids) == ["", "é"]
    assert engine.prompt.pieces(ids[:1], final=False) == [""]
    assert engine.prompt.pieces(ids[:1]) == ["\ufffd"]


def test_special_tokens_and_a_detected_language_have_no_text(engine):
    assert engine.prompt.decode([1, *engine.prompt.encode("hello"), 2]) == "hello"
    pieces = engine.prompt.pieces(engine.prompt.encode("lang:enHello"))
    assert "".join(pieces) == "Hello" and len(pieces) == len(engine.prompt.encode("lang:enHello"))


@pytest.mark.parametrize(("asked", "tokens"), [(5.0, 63), (1.0, 13), (10.0, 125)])
def test_a_shorter_window_takes_fewer_audio_tokens_and_nothing_else_of_the_prompt(tmp_path, asked, tokens):
    config = folder_with_window(tmp_path, 10, 320, 2)
    own, shorter = Prompt(tmp_path, config), Prompt(tmp_path, config, asked)
    ids, fewer = own.transcription_ids("en"), shorter.transcription_ids("en")
    assert (ids.count(own.audio_id), fewer.count(own.audio_id)) == (125, tokens)
    assert [i for i in ids if i != own.audio_id] == [i for i in fewer if i != own.audio_id]
    assert shorter.window_seconds == pytest.approx(tokens * 0.08)
    waveform = tone(shorter.window_seconds)
    frames = shorter.window_frames - 4  # the last ones see what comes after
    torch.testing.assert_close(shorter.log_mel([waveform])[..., :frames], own.log_mel([waveform])[..., :frames])


@pytest.mark.parametrize("asked", [0.5, 10.1, float("nan")])
def test_a_window_that_cannot_be_had_is_refused_with_those_that_can(tmp_path, asked):
    config = folder_with_window(tmp_path, 10, 160, 4)
    with pytest.raises(CheckpointError, match="choose one from 1 to 10 s"):
        Prompt(tmp_path, config, asked)


def test_a_processor_of_another_window_is_refused(tmp_path):
    folder_with_window(tmp_path, 10, 160, 4)
    with pytest.raises(CheckpointError, match="does not fit its model"):
        Prompt(tmp_path, VoxtralConfig(audio_token_id=24))


def test_the_published_vocabulary_gives_the_published_prompt(tmp_path):
    """Voxtral's own: Tekken's 131,072 tokens, the first 1,000 special, windows of 30 s."""
    published_config().save_pretrained(tmp_path)
    write_processor(tmp_path, MERGES, 30)
    tekken = json.loads((tmp_path / "tekken.json").read_text(encoding="utf-8"))
    shipped = json.loads(files("mistral_common").joinpath("data/tekken_240911.json").read_text(encoding="utf-8"))
    special = [{"rank": i, "token_str": f"<SPECIAL_{i}>", "is_control": True} for i in range(1000)]
    special[: len(tekken["special_tokens"])] = tekken["special_tokens"]
    published = {**shipped, "special_tokens": special, "audio": tekken["audio"]}
    published["config"] = {**shipped["config"], "version": "v7"}
    (tmp_path / "tekken.json").write_text(json.dumps(published), encoding="utf-8")
    prompt = Prompt(tmp_path, published_config())
    ids = prompt.transcription_ids("en")
    assert (ids[:3], ids[-1], len(ids), prompt.audio_tokens) == ([1, 3, 25], 34, 383, 375)
    assert [prompt.pieces([i]) for i in ids[-4:-1]] == [["lang"], [":"], ["en"]]
    assert prompt.pieces(prompt.encode("[nervous]")) == ["[n", "erv", "ous", "]"]
    assert prompt.log_mel([tone(1.0)]).shape == (1, 128, 3000)


def test_missing_processor_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no tekken\.json"):
        Prompt(tmp_path, tiny_config())
    config = folder_with_window(tmp_path, 10, 160, 4)
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no processor_config\.json or preprocessor_config\.json"):
        Prompt(tmp_path, config)


@pytest.mark.parametrize("name", ["tekken.json", "processor_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": 5, "feature_extractor": 5}'])
def test_damaged_processor_files_are_named(tmp_path, name, content):
    config = folder_with_window(tmp_path, 10, 160, 4)
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"{name} cannot be used .*: repair it, or download it again"):
        Prompt(tmp_path, config)


def test_a_vocabulary_without_audio_and_a_model_without_a_window_are_refused(tmp_path):
    config = folder_with_window(tmp_path, 10, 160, 4)
    tekken = json.loads((tmp_path / "tekken.json").read_text(encoding="utf-8"))
    (tmp_path / "tekken.json").write_text(json.dumps({**tekken, "audio": None}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tekken\.json .*cannot be used"):
        Prompt(tmp_path, config)
    config = folder_with_window(tmp_path, 10, 160, 4)
    config.audio_config.max_source_positions = 0
    with pytest.raises(CheckpointError, match=r"config\.json .*cannot be used"):
        Prompt(tmp_path, config)
