"""The pipeline: recipes, the loop that resumes, RAFT's choice, and every stage end to end."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import workers
from conftest import RECIPE
from rapidfuzz.distance import Levenshtein
from safetensors.torch import load_file
from torch import nn
from waiting import wait_until

from evoxtral import audio, metrics, speech
from evoxtral.errors import EvoxtralError, RecipeError
from evoxtral.inference.prompt import Prompt
from evoxtral.model import checkpoints, phoneme_head
from evoxtral.speech import notation
from evoxtral.speech.espeak import Espeak
from training import augment, dataset, loop, model, muon, passes, policy, pretrain, raft, recipe, run, sft
from training.dataset import Clips, Collator, DataConfig
from training.raft import Sampled

ROOT = Path(__file__).parents[1]

# --- recipes


def test_the_defaults_are_the_published_recipe():
    published = recipe.load("mini-3b")
    assert (published.train.clips, published.validation.clips, published.test.clips) == (808, 101, 101)
    assert (published.lora.r, published.lora.alpha, published.lora.dropout) == (64, 128, 0.05)
    sft, rl = published.sft, published.raft
    assert (sft.learning_rate, sft.warmup, sft.epochs, sft.batch, sft.neftune) == (2e-4, 50, 3, 16, 5.0)
    assert (rl.samples, rl.temperature, rl.top_p, rl.drop, rl.supervised) == (4, 0.7, 0.9, 0.1, 0)
    assert (rl.sft.learning_rate, rl.sft.warmup, rl.sft.epochs, rl.sft.neftune) == (5e-5, 20, 1, 0.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("bases = 'tiny'", "unknown key 'bases'"),
        ("[sft]\nlr = 1", "unknown key 'lr'"),
        ("[sft]\nepochs = 'three'", "must be of type int"),
        ("[sft]\nepochs = true", "must be of type int"),
        ("base = ", "not valid TOML"),
        ("[train]\nclips = 0", "clips = 0 must be at least 1"),
        ("[test]\nsplit = 'tets'", "'tets' one of train, validation, test"),
        ("[sft]\nbatch = 0", "epochs and batch must be at least 1"),
        ("[raft]\ndrop = 1.0", "drop = 1.0 in"),
        ("[raft]\nsupervised = -1", "supervised = -1 at least 0"),
        ("[rl]\nmethod = 'ppo'", "method = 'ppo' must be one of raft, reinforce-rej, pairs, gdpo"),
        ("[train]\nclips = 9\n[raft]\nsupervised = 9", "supervised = 9 must be less than the 9 clips"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_by_name(tmp_path, text, complaint):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError, match=complaint):
        recipe.load(str(tmp_path / "r.toml"))


def test_a_recipe_that_does_not_exist_names_those_that_do():
    with pytest.raises(RecipeError, match="mini-3b, people, tiny"):
        recipe.load("huge")


def test_the_recipe_with_natural_voices_speaks_its_banks_first_and_is_measured_on_people_last(tmp_path, capsys):
    people = recipe.load("people")
    assert {config.name for config in people.banks} == {"train", "test", "ordinary"}
    assert {name for part in people.pretraining_data for name in part.banks} == {"train"}
    assert run.VOICED_STAGES[0] == "bank" and run.VOICED_STAGES[-1] == "people"
    assert run.RUNNERS.keys() == set(run.VOICED_STAGES)


def test_a_bank_in_missing_voices_gets_an_error_with_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVOXTRAL_VOICES", str(tmp_path / "voices"))
    (tmp_path / "voiced.toml").write_text('[[banks]]\nname = "train"\nnatural = 1\n', encoding="utf-8")
    told = run.main(["--recipe", str(tmp_path / "voiced.toml"), "--runs", str(tmp_path / "runs")])
    assert told == 2 and "npm pack kokoro-js" in capsys.readouterr().err


def test_a_run_of_another_recipe_is_not_overwritten(tmp_path):
    run.Run(tmp_path / "a", recipe.Recipe()).claim()
    run.Run(tmp_path / "a", recipe.Recipe()).claim()  # the same one goes on
    with pytest.raises(RecipeError, match="another --name"):
        run.Run(tmp_path / "a", recipe.Recipe(base="mini-3b")).claim()


def test_mistakes_on_the_command_line_are_one_sentence_and_exit_code_2(capsys, tmp_path):
    assert run.main(["--stages", "data,bake", "--runs", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err.strip() == "There is no stage 'bake'; "
        "the stages are bank, distil, pretrain, data, sft, raft, bench, people."
    )


def test_processes_share_each_step_and_an_error_in_one_is_one_sentence(tmp_path, capfd, preloaded, monkeypatch):
    started = partial(torch.multiprocessing.start_processes, start_method=preloaded.get_start_method())
    monkeypatch.setattr(torch.multiprocessing, "spawn", started)  # the workers of a killed run, below, are spawned
    with pytest.raises(EvoxtralError, match=f"^{re.escape(workers.MISTAKE)}$"):
        loop.parallel(workers.train_toy, tmp_path, processes=2)
    # Process 0 has the gradient (1, 1, 1 | 1) in step 0 and (2, 2, 2 | 1) in step 1, process 1 twice as much.
    weight, bias = 0.5 - 0.1 * 1.5 * (1 + 2), -0.1 * 1.5 * (1 + 1)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx([weight] * 3 + [bias])


def test_an_unusable_run_folder_is_one_sentence(capsys):
    assert run.main(["--runs", "/proc/nowhere"]) == 2
    assert "/proc/nowhere" in capsys.readouterr().err


def test_the_help_names_the_recipes_and_the_way_to_a_base(capsys):
    with pytest.raises(SystemExit):
        run.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "mini-3b, people, tiny, tiny-further" in told and "--stages pretrain,data,sft,raft,bench" in told


# --- the loop


@pytest.fixture(autouse=True)
def saved_at_every_step(monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)


class Interrupted(Exception):
    pass


def fit(folder: Path, steps: int = 12, die_at: int | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    network = nn.Linear(4, 4)

    def losses(step: int):
        if step == die_at:
            raise Interrupted
        for _ in range(2):  # two micro-batches
            yield {"loss": (network(torch.rand(8, 4)) - 1).square().mean() / 2}

    folder.mkdir(exist_ok=True)
    optimizers = [muon.Muon([network.weight], lr=0.01), torch.optim.AdamW([network.bias], lr=0.01)]
    schedule = loop.Schedule(0.01, warmup=2, steps=steps)
    loop.fit([network], optimizers, losses, schedule, folder, "toy")
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = fit(tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(tmp_path / "killed", die_at=7)
    assert torch.equal(fit(tmp_path / "killed"), whole)


def test_no_worker_outlives_a_run_that_was_killed(tmp_path, preloaded):
    process = preloaded.Process(target=workers.two_sleeping_workers, args=(tmp_path,))
    process.start()
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2 or not process.is_alive())
    process.kill()
    process.join()
    pids = [int(file.stem) for file in tmp_path.glob("*.pid")]
    assert len(pids) == 2
    wait_until(lambda: not any(map(alive, pids)), "the end of the workers")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_after_an_interruption_the_log_goes_on_with_means_of_the_steps_since(tmp_path):
    fit(tmp_path / "whole", steps=20)
    with pytest.raises(Interrupted):
        fit(tmp_path / "killed", steps=20, die_at=16)
    fit(tmp_path / "killed", steps=20)
    whole, resumed = (json.loads((tmp_path / run / "toy.log.jsonl").read_text()) for run in ("whole", "killed"))
    assert resumed["loss"] == pytest.approx(whole["loss"], rel=0.6)  # not a fifth of it


def test_the_loop_learns(tmp_path):
    untrained = fit(tmp_path / "none", steps=0)
    inputs = torch.rand(64, 4)

    def loss(parameters: torch.Tensor) -> float:
        weight, bias = parameters[:16].view(4, 4), parameters[16:]
        return float((inputs @ weight.T + bias - 1).square().mean())

    assert loss(fit(tmp_path / "some", steps=150)) < 0.5 * loss(untrained)


def test_the_rate_rises_holds_and_falls_to_its_floor():
    schedule = loop.Schedule(1.0, warmup=10, steps=100, hold=0.5, floor=0.1)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[0] == 0.1 and factors[9] == factors[50] == 1.0
    assert factors[50:] == sorted(factors[50:], reverse=True)
    assert factors[100] == pytest.approx(0.1)


def test_muon_orthogonalises():
    for shape in ((24, 8), (8, 24), (16, 16)):
        values = torch.linalg.svdvals(muon.orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.5


# --- clips and batches


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Clips:
    folder = tmp_path_factory.mktemp("clips")
    return dataset.build(folder, "some", DataConfig(clips=6, split="test", hop=160, held_out_share=0.5), workers=1)


@pytest.fixture(scope="module")
def prompt(checkpoint) -> Prompt:
    return Prompt(Path(checkpoint.base), checkpoints.load_config(Path(checkpoint.base)))


def test_the_same_seed_builds_the_same_clips_and_what_is_there_is_kept(clips, tmp_path):
    config = DataConfig(clips=6, split="test", hop=160, held_out_share=0.5)
    again = dataset.build(tmp_path, "some", config, workers=1)
    assert again.clips == clips.clips
    for i, clip in enumerate(clips.clips):
        assert (again.mel(i) == clips.mel(i)).all()
        assert (tmp_path / clip.audio).read_bytes() == (clips.folder / clip.audio).read_bytes()
    before = (tmp_path / "some-0000.npy").stat().st_mtime_ns
    dataset.build(tmp_path, "some", config, workers=1)
    assert (tmp_path / "some-0000.npy").stat().st_mtime_ns == before


def test_further_voices_are_for_training_only_and_never_held_out_ones(prompt):
    """None of them is nearer to a held-out voice than the nearest that training heard before."""
    texts = (
        "The judge gave us an amazing old yellow house by the river.",
        "Please don't whisper, my father thinks we should leave now!",
    )
    mels = {}
    for variant in dataset.VARIANTS + dataset.FURTHER:
        waveforms = [speech.speak(text, f"en-us+{variant}", seed=1).waveform for text in texts]
        mels[variant] = [
            mel[:, : len(waveform) // prompt.hop]
            for mel, waveform in zip(prompt.log_mel(waveforms), waveforms, strict=True)
        ]

    def apart(one, other):
        pairs = list(zip(mels[one], mels[other], strict=True))
        frames = [min(a.shape[1], b.shape[1]) for a, b in pairs]
        return sum(float((a[:, :n] - b[:, :n]).abs().mean()) for (a, b), n in zip(pairs, frames, strict=True))

    for held_out in dataset.HELD_OUT:
        known = [variant for variant in dataset.VARIANTS if variant not in dataset.HELD_OUT]
        assert min(apart(v, held_out) for v in dataset.FURTHER) > min(apart(v, held_out) for v in known)


def test_scripts_with_long_pauses_have_several_and_the_recipes_are_as_before(tmp_path):
    config = DataConfig(clips=12, hop=160, keep_audio=False, window_seconds=20, long_pauses=1.0)
    found = dataset.build(tmp_path, "some", config, workers=1)
    assert sum(clip.text.count("[pause]") for clip in found.clips) >= 12
    assert recipe.load("tiny").train.long_pauses == recipe.load("people").train.long_pauses == 0


def test_stored_log_mels_are_those_the_engine_computes_from_the_audio(clips, prompt):
    collate = Collator(clips, prompt)
    waveforms = [audio.load(clips.folder / clip.audio) for clip in clips.clips]
    ours, engines = collate.mels(list(range(len(clips)))), prompt.log_mel(waveforms)
    assert ours.shape == engines.shape
    # 16-bit audio and 16-bit mels round; near the floor a log is steep, so a few bins differ more than most.
    assert (ours - engines).abs().quantile(0.99) < 0.05


def test_labels_are_the_text_and_its_end_only(clips, prompt):
    texts = [clip.text for clip in clips.clips]
    batch = Collator(clips, prompt)(list(range(len(clips))), prompt.transcription_ids("en"), texts)
    assert (
        int((batch.prompt == prompt.audio_id).sum()) * prompt.window_frames == batch.mels.shape[2] * prompt.audio_tokens
    )
    for row, text in zip(batch.labels.tolist(), texts, strict=True):
        learned = [i for i in row if i != model.IGNORE]
        assert learned == [*prompt.encode(text), prompt.eos_id]


def test_a_cropped_batch_ends_with_its_longest_clip(clips, prompt):
    longest = max(clip.frames for clip in clips.clips)
    mels = Collator(clips, prompt).mels(list(range(len(clips))), full_window=False)
    assert longest <= mels.shape[2] < longest + dataset.FRAMES <= prompt.window_frames + dataset.FRAMES


def test_a_varied_clip_is_nearly_as_long_and_fits_the_window():
    rng = np.random.default_rng(0)
    mel = rng.standard_normal((500, 128)).astype(np.float16)
    lengths = {len(augment.vary(mel, rng, window=1000)[0]) for _ in range(50)}
    assert min(lengths) >= 500 / 1.06 and max(lengths) <= 500 / 0.94 + 1 and len(lengths) > 10
    assert all(len(augment.vary(mel, rng, window=505)[0]) <= 505 for _ in range(50))


def test_on_full_windows_training_computes_what_the_model_itself_does(clips, prompt, checkpoint):
    base = checkpoints.load_base(Path(checkpoint.base), torch.float32)
    batch = Collator(clips, prompt)([0, 1], prompt.transcription_ids("en"), ["Hello.", "Yes, no."])
    with torch.no_grad():
        audio_tokens = model.project(base, model.encode(base, batch.mels))
        ours = model.text_logits(base, audio_tokens, batch.prompt, batch.text)
        ids = torch.cat([batch.prompt.expand(2, -1), batch.text], 1)
        theirs = base(input_ids=ids, input_features=batch.mels).logits[:, len(batch.prompt) - 1 :]
    assert torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize(("batches", "size"), [(dataset.batches, 4), (dataset.batches_of_frames, 900)])
def test_an_epoch_holds_every_clip_once(clips, batches, size):
    assert sorted(i for batch in batches(clips, size, seed=1) for i in batch) == list(range(len(clips)))


def test_batches_of_frames_come_in_few_shapes(tmp_path):
    """So that a CPU compiles few products: clips of one rounded length always make batches of one size."""
    lengths = np.random.default_rng(0).integers(60, 500, 1000)
    made = [dataset.Clip(str(i), "", "plain", "open", "", False, 0, n / 50, int(n)) for i, n in enumerate(lengths)]
    batches = dataset.batches_of_frames(dataset.Clips(tmp_path, made, [], []), 3000, seed=1)
    shapes = {(len(batch), -(-max(lengths[i] for i in batch) // dataset.FRAMES)) for batch in batches}
    assert len(shapes) <= len({-(-n // dataset.FRAMES) for n in lengths}) + 1  # the rest of an epoch may be smaller
    assert all(size * length * dataset.FRAMES <= 3000 for size, length in shapes)


@pytest.mark.parametrize("listening", [0.0, 0.5])
def test_pretraining_uses_every_batch_once_an_epoch_and_begins_its_parts_with_short_clips(clips, listening):
    task = object.__new__(pretrain.Pretraining)
    task.clips, task._batches = clips, {}
    task.short = [i for i, clip in enumerate(clips.clips) if clip.seconds < 6]
    task.config = pretrain.PretrainConfig(steps=40, listening=listening, short_share=0.1, frames=1)  # a clip a batch
    used = [task._batch(number)[0] for number in range(40)]
    parts = [used[:20], used[20:]] if listening else [used]
    for part in parts:
        assert set(part[:4]) <= set(task.short)
    rest = [i for part in parts for i in part[4:]]
    for start in range(0, len(rest) - len(clips) + 1, len(clips)):
        assert sorted(rest[start : start + len(clips)]) == list(range(len(clips)))


def test_a_share_of_the_first_weights_is_kept():
    trained, first = nn.Linear(3, 2), nn.Linear(3, 2)
    wanted = 0.8 * trained.weight + 0.2 * first.weight
    pretrain.mixed(trained, first, 0.2)
    assert torch.allclose(trained.weight, wanted)


def test_the_committed_ctc_head_hears_phonemes_and_tags():
    """In the encoder's states, 25 a second: of a clip, what espeak-ng has said."""
    folder, text = checkpoints.TINY_FOLDER / "base", "The old bridge shook in the storm. [laughs] Nobody saw it."
    base, (symbols, head) = checkpoints.load_base(folder, torch.float32), phoneme_head.read(folder)
    waveform = speech.speak(text, "en-us+f3", 1).waveform
    log_mel = Prompt(folder, checkpoints.load_config(folder)).log_mel([waveform])
    with torch.no_grad():
        heard = head(model.encode(base, log_mel))[0].argmax(-1).unique_consecutive().tolist()
    with Espeak() as engine:
        said = notation.phonemes(engine, text, "en-us")
    assert Levenshtein.distance([symbols[k - 1] for k in heard if k], said) < 0.2 * len(said)


def test_a_committed_base_can_be_trained_further(tmp_path):
    """Its weights lie in several files; the base that comes out is one whole checkpoint, and nearly the same after a
    small step."""
    clips = dataset.build(tmp_path, "few", DataConfig(clips=3, split="test", keep_audio=False), workers=1)
    config = pretrain.PretrainConfig(start="tiny", steps=1, warmup=100, frames=500, listening=0.0, short_share=0.0)
    pretrain.prepare(tmp_path, clips, config)
    pretrain.pretrain(tmp_path, clips, clips, config)
    bases = (checkpoints.TINY_FOLDER / "base", tmp_path / "base")
    before, after = (checkpoints.load_base(path, torch.float32).state_dict() for path in bases)
    assert before.keys() == after.keys()
    changes = {name: (after[name] - before[name]).abs().max() for name in before}
    assert 0 < max(changes.values()) < 0.05
    known, (symbols, head) = phoneme_head.read(bases[0]), phoneme_head.read(bases[1])
    assert symbols == known[0] and 0 < (head.weight - known[1].weight).abs().max() < 0.05, "the CTC head goes on"


def test_the_second_task_lists_tags_and_stress_in_order():
    assert (
        pretrain.how_it_is_said("[nervous] So I NEVER [laughs] left. [pause] Bye.")
        == "[nervous] NEVER [laughs] [pause]"
    )
    assert pretrain.how_it_is_said("So I left.") == "plain"


def test_the_ctc_targets_are_phonemes_stress_tags_and_clause_melodies():
    with Espeak() as engine:
        heard = notation.phonemes(engine, "[sad] No, it IS! [laughs] Right?", "en-us")
    assert heard == ["[sad]", "n", "oU", "|,", "I", "t", "^", "I", "z", "|!", "[laughs]", "r", "aI", "t", "|?"]


# --- RAFT


def sampled(rewards: list[float], name: str = "a") -> Sampled:
    return Sampled(name, "text", [f"text {r}" for r in rewards], rewards)


def test_the_best_sample_has_the_highest_reward_and_is_the_first_of_equals():
    assert sampled([0.2, 0.9, 0.9]).best == 1


def test_equal_rewards_are_ranked_by_stress():
    texts = ["I never said that.", "I NEVER said that.", "I NEVER said THAT."]
    attempts = Sampled("a", "I NEVER said that.", texts, [metrics.reward(t, "I NEVER said that.") for t in texts])
    assert set(attempts.rewards) == {1.0} and attempts.best == 1
    flat = Sampled("b", attempts.reference, texts[:1], attempts.rewards[:1])
    assert raft.curate([attempts, flat], 0.5) == [attempts]


def test_the_lowest_tenth_is_dropped():
    samples = [sampled([i / 20, 0.0], str(i)) for i in range(20)]
    assert [s.id for s in raft.curate(samples, 0.1)] == [str(i) for i in range(2, 20)]


def test_ties_at_the_threshold_are_kept():
    samples = [sampled([1.0]) for _ in range(10)]
    assert len(raft.curate(samples, 0.1)) == 10


def test_rl_learns_from_the_best_attempts_and_from_the_references_of_the_others(clips):
    attempts = [sampled([i / 10, 1.0], clip.id) for i, clip in enumerate(clips.clips[:3])]
    attempts[1].rewards[1] = 0.0
    learned, texts = raft.training_set(attempts, clips.first(5), drop=0.34)
    a, _, *others = clips.clips[:5]
    assert learned.clips == [a, *others]
    assert texts == ["text 1.0", "text 1.0", *(clip.text for clip in others[1:])]
    assert [len(learned.mel(i)) for i in range(4)] == [clip.frames for clip in learned.clips]


@pytest.mark.parametrize("method", ["reinforce-rej", "pairs", "gdpo"])
def test_rl_makes_the_better_attempt_likelier_against_the_worse(method, checkpoint, prompt, clips):
    """Real clips and a real adapter; a few steps on one clip's two attempts, of which one is right."""
    good, bad = clips.clips[0].text, "[calm] Something else."
    samples = [Sampled("0", good, [bad, good], [0.1, 1.0]), Sampled("1", good, [good, good], [1.0, 1.0])]
    config = sft.SftConfig(learning_rate=1e-2, batch=2, micro_batch=1, epochs=1)
    found = policy.attempts(samples, clips.first(2), policy.RlConfig(method))
    tuned = sft.adapted(Path(checkpoint.base), RECIPE, Path(checkpoint.adapters["sft"]), torch.device("cpu"))
    task = found.task(tuned, prompt, found.clips, found.texts, config)
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=1e-2)

    def gap() -> float:
        with torch.no_grad():
            scores, _ = zip(*(task._forward([0], [text]) for text in (good, bad)), strict=True)
        return float(scores[0].sum() - scores[1].sum())

    before = gap()
    for part in task.losses(0):
        part["loss"].backward()
    optimiser.step()
    assert gap() > before
    assert len(found.clips) == {"reinforce-rej": 2, "pairs": 1, "gdpo": 2}[method]


@pytest.mark.parametrize(("written", "kept"), [("", 0), ("1\n2\n3\n", 2), ("1\n2\n3\n4", 2), ("1\n2\n3\n4\n", 4)])
def test_an_interrupted_file_is_read_to_its_last_complete_chunk(tmp_path, written, kept):
    (tmp_path / "rows.jsonl").write_text(written)
    assert loop.whole_chunks(tmp_path / "rows.jsonl", 2) == list(range(1, kept + 1))
    assert (tmp_path / "rows.jsonl").read_text() == "".join(f"{i}\n" for i in range(1, kept + 1))


def test_an_atomic_folder_is_complete_or_absent(tmp_path):
    with pytest.raises(Interrupted), checkpoints.atomic_folder(tmp_path / "out") as out:
        (out / "half").touch()
        raise Interrupted
    assert not (tmp_path / "out").exists()
    with checkpoints.atomic_folder(tmp_path / "out") as out:
        (out / "all").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["all"]


# --- every stage

SMALL = """
base = "{base}"
[train]
clips = 12
keep_audio = false
[validation]
clips = 4
split = "validation"
keep_audio = false
[fresh]
clips = 9
seed = 43
[test]
clips = 6
split = "test"
held_out_share = 0.5
[sft]
warmup = 1
epochs = 1
micro_batch = 8
[raft]
samples = 2
supervised = 3
[raft.sft]
warmup = 1
epochs = 1
[bench]
resamples = 50
ordinary = 2
[pretrain]
steps = 4
frames = 1000
[pretrain.shape]
merges = 100
encoder_layers = 1
encoder_width = 32
text_layers = 1
text_width = 32
text_mlp = 64
heads = 2
key_value_heads = 1
[[pretraining_data]]
clips = 16
keep_audio = false
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of every stage, pretraining included, each for a few real steps."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "small.toml").write_text(SMALL.format(base="tiny"))
    with pytest.MonkeyPatch.context() as patch:
        # As in workers.pipeline: another precision or number of processes rounds differently.
        patch.setattr(loop, "cores", lambda: 1)
        patch.setenv(loop.PRECISION, "float32")
        assert run.main([*arguments(folder), "--stages", ",".join(run.STAGES)]) == 0
    return folder


def arguments(folder: Path) -> list[str]:
    return ["--recipe", str(folder / "small.toml"), "--runs", str(folder / "runs")]


def contents(folder: Path) -> dict[str, bytes]:
    """What came out of a run, without what tells how long it took."""
    files = [
        file for file in folder.rglob("*") if file.is_file() and file.suffix in (".safetensors", ".jsonl", ".json")
    ]
    timed = ("predictions.jsonl", "pretrain.log.jsonl", "sft.log.jsonl", "rl.log.jsonl")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.name not in timed}


def test_a_pipeline_killed_in_every_stage_equals_an_uninterrupted_one(finished, preloaded, tmp_path):
    """Each time with SIGKILL, as soon as something appears that the stage makes on its way or at its end."""
    folder, output = tmp_path / "small", tmp_path / "output.txt"
    command = ["--recipe", str(finished / "small.toml"), "--runs", str(tmp_path), "--stages", ",".join(run.STAGES)]
    for moment in ("start", "sft.state.pt", "samples.jsonl", "predictions.jsonl"):
        process = preloaded.Process(target=workers.pipeline, args=(command, output))
        process.start()
        wait_until(lambda file=folder / moment, process=process: file.exists() or not process.is_alive())
        process.kill()
        process.join()
        assert (folder / moment).exists(), output.read_text()
    # The last time as a person starts it.
    script = [sys.executable, str(ROOT / "training" / "run.py"), *command]
    ended = subprocess.run(script, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert contents(folder) == contents(finished / "runs" / "small")


def test_the_pipeline_from_nothing_to_a_table(finished, capsys):
    """The same command again finds it done, and shows the table."""
    folder = finished / "runs" / "small"
    found = json.loads((folder / "results.json").read_text())
    assert list(found["variants"]) == ["base", "sft", "rl"]
    assert found["n"] == 6 and found["date"] and found["clips"]["held_out_voices"] >= 1
    for variant in found["variants"]:
        pairs = [json.loads(line) for line in (folder / f"predictions-{variant}.jsonl").read_text().splitlines()]
        assert len(pairs) == 6 and all(set(pair) == {"prediction", "reference"} for pair in pairs)
    assert len(raft.read(folder / "samples.jsonl")) == 6
    assert (folder / "sft" / "adapter_model.safetensors").exists()
    assert (folder / "rl" / "adapter_model.safetensors").exists()
    written = (folder / "results.json").stat().st_mtime_ns
    assert run.main([*arguments(finished), "--stages", ",".join(run.STAGES)]) == 0
    assert (folder / "results.json").stat().st_mtime_ns == written
    assert "| WER |" in capsys.readouterr().out


# --- several processes of a launcher


@pytest.fixture(scope="module")
def longer(finished, tmp_path_factory) -> Path:
    """The base and clips of `finished` under a recipe of twelve steps, and the adapter that one process makes."""
    folder = tmp_path_factory.mktemp("launched")
    text = SMALL.format(base="tiny").replace("epochs = 1\nmicro_batch = 8", "epochs = 4\nbatch = 4\nmicro_batch = 2")
    (folder / "small.toml").write_text(text)
    for name in ("alone", "together", "killed"):
        for part in ("base", "data"):
            shutil.copytree(finished / "runs" / "small" / part, folder / "start" / name / part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "cores", lambda: 1)
        patch.setenv(loop.PRECISION, "float32")
        assert run.main(of_launched(folder, "alone")) == 0
    return folder


def of_launched(folder: Path, name: str) -> list[str]:
    """The arguments of a run that has only SFT to do."""
    settings = recipe.load(str(folder / "small.toml"))
    if not (folder / "runs" / name).exists():
        run.Run(folder / "runs" / name, settings).claim()
        for part in ("base", "data"):
            (folder / "start" / name / part).rename(folder / "runs" / name / part)
    return [*arguments(folder), "--name", name, "--stages", "sft"]


def start_together(preloaded, folder: Path, name: str) -> list:
    """Two processes that train one adapter."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, started = of_launched(folder, name), []
    for rank in range(2):
        output = folder / f"{name}-{rank}.txt"
        started.append(preloaded.Process(target=workers.launched, args=(command, output, rank, 2, port)))
        started[-1].start()
    return started


def adapter(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "runs" / name / "sft" / "adapter_model.safetensors")


def _dropping(checkpoint) -> nn.Module:
    """A model with adapters that are not zero, and dropout."""
    tuned = sft.adapted(Path(checkpoint.base), replace(RECIPE, dropout=0.1), None, torch.device("cpu"))
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return tuned


def test_lora_in_one_operation_computes_what_peft_does(checkpoint, monkeypatch):
    monkeypatch.setenv(loop.PRECISION, "float32")
    tuned = sft.adapted(Path(checkpoint.base), replace(RECIPE, dropout=0.3), None, torch.device("cpu"))
    tuned.train()
    layer = tuned.base_model.model.model.audio_tower.layers[0].self_attn.q_proj
    x, weights = torch.randn(2, 5, layer.in_features), (layer.lora_A.default.weight, layer.lora_B.default.weight)
    nn.init.normal_(weights[1])
    found = []
    for forward in (layer.forward, partial(type(layer).forward, layer)):
        torch.manual_seed(0)
        given = x.clone().requires_grad_()
        out = forward(given)
        found.append([out, *torch.autograd.grad(out.square().sum(), [given, *weights])])
    for ours, pefts in zip(*found, strict=True):
        torch.testing.assert_close(ours, pefts, rtol=1e-4, atol=1e-5 * float(pefts.abs().max()))
    assert not torch.equal(layer(x), layer(x)), "dropped anew"
    assert torch.equal(layer.eval()(x), layer(x))


def test_the_loss_of_the_output_layer_needs_no_logits_without_a_label(checkpoint, monkeypatch):
    base = checkpoints.load_base(Path(checkpoint.base), torch.float32)
    vocabulary, width = base.lm_head.weight.shape
    monkeypatch.setattr(model, "LOGITS", 4 * vocabulary)  # several parts, and a rest
    labels = torch.randint(vocabulary, (3, 7))
    labels[0, 4:], labels[2, :2] = model.IGNORE, model.IGNORE
    states = torch.randn(3, 7, width, requires_grad=True)
    ours = model.head_loss(base, states, labels)
    usual = model.cross_entropy(base.lm_head(states), labels)
    assert ours.item() == pytest.approx(usual.item(), rel=1e-5)
    gradients = [torch.autograd.grad(3 * loss, states)[0] for loss in (ours, usual)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)
    with torch.no_grad():
        assert model.head_loss(base, states, labels).item() == pytest.approx(usual.item(), rel=1e-5)


def test_the_gradient_of_a_step_is_that_of_any_number_of_processes(checkpoint, prompt, clips, monkeypatch):
    """With dropout, noise and clips varied, to rounding: each clip draws its own random numbers."""
    monkeypatch.setenv(loop.PRECISION, "float32")
    config = sft.SftConfig(batch=4, micro_batch=1, vary=True, cropped=0.5)
    tuned = _dropping(checkpoint)
    tuned.train()
    task = sft.Finetuning(tuned, prompt, clips, [clip.text for clip in clips.clips], config)
    found = {}
    for processes in (1, 2, 3):
        tuned.zero_grad()
        for rank in range(processes):
            monkeypatch.setattr(loop, "world", lambda rank=rank, processes=processes: (rank, processes))
            assert len(task._parts(0)) == task.micro_batches(0)
            for parts in task.losses(0):
                (parts["loss"] / processes).backward()
        found[processes] = torch.cat([p.grad.flatten() for p in tuned.parameters() if p.requires_grad])
    assert found[1].norm() > 0
    for processes in (2, 3):
        torch.testing.assert_close(found[processes], found[1], rtol=1e-3, atol=1e-5 * float(found[1].abs().max()))


@pytest.mark.parametrize("free", [0.0, 1e12])
def test_the_gradient_of_a_step_does_not_depend_on_the_memory_that_is_free(
    checkpoint, prompt, clips, monkeypatch, free
):
    """With dropout, noise and clips varied, to rounding: one at a time and layers computed again, or all at once."""
    monkeypatch.setenv(loop.PRECISION, "float32")
    config = sft.SftConfig(batch=6, micro_batch=6, vary=True, cropped=0.5)
    tuned = _dropping(checkpoint)
    tuned.train()
    task = sft.Finetuning(tuned, prompt, clips, [clip.text for clip in clips.clips], config)
    need = task.needed(1000)
    found = []
    for chosen in (passes.Passes(4), passes.choose(need, free, task.most)):
        task.run_as(chosen)
        tuned.zero_grad()
        for parts in task.losses(0):
            parts["loss"].backward()
        found.append(torch.cat([p.grad.flatten() for p in tuned.parameters() if p.requires_grad]))
    assert task.passes == (passes.Passes(6) if free else passes.Passes(1, checkpointing=True))
    assert found[0].norm() > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5 * float(found[0].abs().max()))
    before, estimated = passes.Kept(task.base), need.of_clip(task.passes.checkpointing)
    with before:
        task._seeded(0, 0)
        task.one_clip()
    assert 0.5 * before.bytes < estimated < 4 * before.bytes + 2 * max(need.kept)


def test_two_processes_train_what_one_does_and_go_on_exactly_after_a_kill(longer, preloaded):
    """With DDP, up to rounding; and a run whose processes were killed ends as one whose were not, to the bit."""
    killed = longer / "runs" / "killed"
    processes = start_together(preloaded, longer, "together")
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0], (longer / "together-1.txt").read_text()
    alone, shared = adapter(longer, "alone"), adapter(longer, "together")
    squares = [((shared[k].float() - v.float()).square().sum(), v.float().square().sum()) for k, v in alone.items()]
    difference, whole = (sum(column) for column in zip(*squares, strict=True))
    assert difference < 1e-4 * whole  # AdamW divides by the gradient: where that is nearly 0, rounding shows
    processes = start_together(preloaded, longer, "killed")
    wait_until(lambda: (killed / "sft.state.pt").exists() or not all(p.is_alive() for p in processes))
    for process in processes:
        process.kill()
        process.join()
    assert (killed / "sft.state.pt").exists(), (longer / "killed-0.txt").read_text()
    processes = start_together(preloaded, longer, "killed")
    for process in processes:
        process.join()
    resumed = adapter(longer, "killed")
    assert resumed.keys() == shared.keys() and all(torch.equal(resumed[name], shared[name]) for name in shared)
