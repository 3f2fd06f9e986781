"""`python -m evoxtral bench`: sets built from a seed, a run that resumes, its results and its report."""

import json
import random
import re

import numpy as np
import pytest
import soundfile
from conftest import tone

from evoxtral import audio, cli, tags, words
from evoxtral.bench import precisions, running, sets
from evoxtral.bench.sets import SETS, TEXTS, BenchError, Clip
from evoxtral.inference import tags_from_text
from evoxtral.speech import acoustics
from training import ladders, tagged_texts

LINES = [json.loads(line) for line in TEXTS.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------------------------------------- texts and sets


def test_every_set_of_texts_has_300_and_they_are_as_their_name_says():
    by_set = {name: [line["text"] for line in LINES if line["set"] == name] for name in ladders.MAKERS}
    assert {name: len(some) for name, some in by_set.items()} == dict.fromkeys(ladders.MAKERS, 300)
    assert all(len(tags.names(text)) >= 8 for text in by_set["dense"])
    assert not any(tags.names(text) or tags.emphasised(text) for text in by_set["plain"])
    for first, second in zip(by_set["pairs"][::2], by_set["pairs"][1::2], strict=True):
        assert tags.plain(first) == tags.plain(second) and tags.names(first) != tags.names(second)
    assert all(len(tags.names(text)) == 1 for text in by_set["contradict"])
    assert all(not text.startswith("[") and not text.endswith("]") for text in by_set["unusual"])
    voices = {line["voice"].partition("+")[2] for line in LINES}
    assert voices & ladders.dataset.HELD_OUT and voices - ladders.dataset.HELD_OUT


def sentences(text: str) -> list[str]:
    """Those of more than three words; shorter ones, such as "Oh, no!", are in every split."""
    found = re.findall(r"[^.!?]+[.!?]?", tags.plain(text).replace("...", "…"))
    return [sentence.strip().replace("…", "...") for sentence in found if len(sentence.split()) > 3]


def test_no_sentence_of_the_bench_is_one_that_training_writes():
    """Splits go by the sentence's text, before "a" becomes "an" where the next word asks for it."""
    shipped = {sentence for line in LINES for sentence in sentences(line["text"])}
    assert len(shipped) > 1000
    for sentence in shipped:
        before = re.sub(r"\b([Aa])n\b", r"\1", sentence)
        assert "test" in {tagged_texts.split_of(sentence), tagged_texts.split_of(before)}, sentence
    rng, slices = random.Random(1), tagged_texts.Slices()
    trained = {s for _ in range(500) for s in sentences(tagged_texts.write(rng, slices.draw(rng), "train").text)}
    assert len(trained) > 400 and trained.isdisjoint(shipped)


def test_every_few_clips_of_clean_are_tagged_as_all_are():
    tagged = [bool(tags.names(line["text"])) for line in LINES if line["set"] == "clean"]
    share = sum(tagged) / len(tagged)
    assert all(abs(sum(tagged[:n]) - share * n) <= 1 for n in range(1, 301)) and 0.6 < share < 0.8


def test_the_texts_come_from_their_seed():
    assert [vars(text) for text in ladders.texts("plain", 3)] == [line for line in LINES if line["set"] == "plain"][:3]


def test_the_same_seed_gives_the_same_noise_on_every_rung_and_another_seed_another():
    by_rung = {clip.rung: clip for clip in sets.clips("noise", 1)}
    clean = next(sets.clips("clean", 1)).sound()
    added = {rung: by_rung[rung].sound() - clean for rung in ("20 dB", "10 dB")}
    assert np.array_equal(added["20 dB"], by_rung["20 dB"].sound() - clean)
    likeness = np.corrcoef(added["20 dB"], added["10 dB"])[0, 1]
    power = np.mean(added["10 dB"] ** 2) / np.mean(added["20 dB"] ** 2)
    assert likeness > 0.99 and power == pytest.approx(10, rel=0.05)
    other = next(sets.clips("noise", 1, seed=1)).sound()
    assert not np.array_equal(other, by_rung["20 dB"].sound())


@pytest.mark.parametrize(("rung", "factor"), [("0.8 ×", 1.25), ("1.3 ×", 1 / 1.3)])
def test_pace_changes_the_length_and_not_the_pitch(rung, factor):
    t = np.arange(32_000) / 16_000
    waveform = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    paced = acoustics.paced(waveform, float(rung.split()[0]))
    assert len(paced) == pytest.approx(factor * len(waveform), rel=0.03)
    peak = np.abs(np.fft.rfft(paced * np.hanning(len(paced)))).argmax() * 16_000 / len(paced)
    assert peak == pytest.approx(440, rel=0.02)


def test_a_telephone_keeps_the_length_and_nothing_above_its_band():
    waveform = next(sets.clips("clean", 1)).sound()
    for coded in (acoustics.narrowband(waveform), acoustics.gsm(waveform)):
        spectrum = np.abs(np.fft.rfft(coded)) ** 2
        assert len(coded) == len(waveform) and spectrum[int(0.52 * len(spectrum)) :].sum() < 0.01 * spectrum.sum()


def test_a_control_has_the_audio_of_another_clip_and_two_speakers_have_both_texts():
    shuffled = [clip for clip in sets.clips("controls", 2) if clip.rung == "another clip's audio"]
    clean = list(sets.clips("clean", 2))
    assert [clip.reference for clip in shuffled] == [clip.reference for clip in clean]
    assert np.array_equal(shuffled[1].sound(), sets.texts("clean")[151].spoken())
    turns = next(sets.clips("speakers", 1))
    assert turns.reference.startswith(clean[0].reference) and len(turns.reference) > len(clean[0].reference)
    assert len(turns.sound()) > len(clean[0].sound())


# ------------------------------------------------------------------------------------------------- text alone


def test_text_alone_keeps_the_words_and_adds_only_tags(engine):
    texts = ["[sad] It never rains, John.", "Wait. [laughs]"]
    found = tags_from_text.tagged(engine, texts)
    for text, row in zip(texts, found, strict=True):
        assert row.keys() == set(engine.variants)
        assert {tags.without_tags(one).split() == tags.without_tags(text).split() for one in row.values()} == {True}


@pytest.mark.parametrize("first", ["[", "x"])
def test_a_tag_may_open_between_words_only_and_ends_in_time(first):
    pieces = dict(enumerate(["", "[", "a", "]", "x", " b", " c"]))
    row = tags_from_text.Row([[4], [5, 6]], lambda ids: [pieces[i] for i in ids], 0, close=3)
    wishes = 1 if first == "[" else 4
    while not row.done:
        row.next(wishes if not row.ids else 2)
    written = "".join(pieces[i] for i in row.ids)
    assert tags.without_tags(written) == "x b c" and len(row.ids) <= 3 + tags_from_text.MAX_TOKENS + 2
    assert bool(tags.names(written)) == (first == "[")


# ------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def folder(tmp_path):
    """Three recordings with texts, and one line that names a file which is no recording."""
    made = tmp_path / "mine"
    made.mkdir()
    for k in range(3):
        soundfile.write(made / f"{k}.wav", tone(1.0 + k, seed=k), 16_000)
    (made / "torn.wav").write_bytes(b"RIFF")
    names = ("0.wav", "1.wav", "2.wav", "torn.wav")
    lines = (json.dumps({"file_name": name, "text": f"[laughs] number {k}"}) for k, name in enumerate(names))
    (made / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made


@pytest.fixture
def bench(checkpoint, engine, monkeypatch):
    monkeypatch.setattr(running, "Engine", lambda _: engine)
    return lambda *arguments, **options: running.bench(checkpoint, *arguments, quiet=True, **options)


def test_a_folder_is_measured_resumed_and_reported(bench, folder, tmp_path):
    out = tmp_path / "out"
    found = bench([str(folder)], out, limit=2)
    assert found["sets"]["mine"]["rungs"]["all"]["n"] == 2 and found["failed"] == {}
    before = (out / "predictions.jsonl").read_text(encoding="utf-8")
    (out / "predictions.jsonl").write_text(before + '{"id": "mine/all/00', encoding="utf-8")  # killed in mid-line
    found = bench([str(folder)], out)
    after = (out / "predictions.jsonl").read_text(encoding="utf-8")
    assert after.startswith(before) and len(after.splitlines()) == 3
    assert list(found["failed"]) == ["mine/all/0003"] and found["sets"]["mine"]["rungs"]["all"]["n"] == 3
    written = json.loads((out / "results.json").read_text(encoding="utf-8"))
    one = written["sets"]["mine"]["rungs"]["all"]
    assert one["variants"].keys() == {"base", "sft", "rl"} and one["differences"].keys() == {"sft - base", "rl - sft"}
    assert {"tagged_placed_tag_f1", "normalised_corpus_wer"} <= one["variants"]["rl"]["intervals"].keys()
    for row in map(json.loads, after.splitlines()):
        counts = {name: len(list(words.split(text))) for name, text in row["predictions"].items()}
        assert {name: len(some) for name, some in row["probabilities"].items()} == counts
    assert written["calibration"].keys() == {"every set"}
    assert written["calibration"]["every set"].keys() == counts.keys()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 3 and not re.search(r'src="(?!data:)|<script|<link|https?://', page)
    assert not list(out.glob("clips-*"))


def test_one_run_measures_several_precisions_on_the_same_clips(tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["-q", "bench", "clean", "--model", "tiny", "--limit", "3", "-o", str(out), "--weights"]
    assert cli.main([*asked, "int8,fp32"]) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert found["precision"] == "fp32", "the more exact one, whatever the order"
    assert found["precisions"] == ["fp32", "int8"] and [*found["other_precisions"]] == ["int8"]
    other = found["other_precisions"]["int8"]
    rows = {
        kind: [json.loads(line) for line in (out / f"predictions-{kind}.jsonl").read_text("utf-8").splitlines()]
        for kind in ("fp32", "int8")
    }
    assert {kind: {row["precision"] for row in some} for kind, some in rows.items()} == {k: {k} for k in rows}
    assert [row["id"] for row in rows["fp32"]] == [row["id"] for row in rows["int8"]]
    cost, summary = other["cost"]["clean"]["as spoken"]["rl"], other["sets"]["clean"]["rungs"]["as spoken"]
    exact = found["sets"]["clean"]["rungs"]["as spoken"]["variants"]["rl"]
    assert summary["n"] == 3
    for name in ("wer", "tagged_placed_tag_f1"):
        change = cost["differences"][name]
        assert change["value"] == pytest.approx(summary["variants"]["rl"][name] - exact[name])
        assert change["low"] <= change["value"] <= change["high"]
    assert cost["tags"] > 0 and 0 < cost["tag_probability"] < 0.02
    assert other["pooled"]["rl"] == cost, "there is one rung"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Weights in int8" in page and "int8 − fp32" in page and " · in fp32 · " in page
    assert "int8 - fp32, points" in printed and "all together" in printed and "all together" in page
    assert "other_precisions" not in running.brief(found) and running.brief(found)["precision"] == "fp32"
    assert cli.main([*asked, "fp32,int4"]) == 2
    assert "other variants, precisions, texts or seed" in capsys.readouterr().err


def test_tags_are_compared_where_both_texts_have_them():
    row = {"predictions": {"rl": "[sad] one, [laughs] two"}, "probabilities": {"rl": [0.9, 1.0, 0.5, 1.0]}}
    ours, exact = precisions.tags_of(row, "rl"), [("[laughs]", 0.75), ("[sighs]", 0.5)]
    assert ours == [("[sad]", 0.9), ("[laughs]", 0.5)]
    assert [*precisions.paired(ours, exact)] == [(0.5, 0.75)]
    assert precisions.tags_of({"predictions": {"rl": "[sad] a"}}, "rl") == ()


def test_a_run_does_not_mix_precisions(bench, folder, tmp_path):
    bench([str(folder)], tmp_path / "out", limit=1)
    path = tmp_path / "out" / "predictions.jsonl"
    path.write_text(path.read_text("utf-8").replace('"precision": "fp32"', '"precision": "int8"'), "utf-8")
    with pytest.raises(BenchError, match="clips by weights in int8, and fp32 would be taken now"):
        bench([str(folder)], tmp_path / "out", limit=2)


def test_what_is_in_a_text_is_no_markup_in_the_report(bench, folder, tmp_path):
    (folder / "metadata.jsonl").write_text('{"file_name": "0.wav", "text": "<img src=x> [laughs]"}\n', encoding="utf-8")
    bench([str(folder)], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "&lt;img src=x&gt;" in page and "<img" not in page


def test_a_folder_of_another_run_is_refused(bench, folder, tmp_path):
    bench([str(folder)], tmp_path / "out", limit=1)
    with pytest.raises(BenchError, match="texts or seed"):
        bench([str(folder)], tmp_path / "out", limit=1, seed=1)
    with pytest.raises(BenchError, match="no run of the bench"):
        bench([str(folder)], folder, limit=1)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "has no metadata.jsonl"),
        ("", "has no lines"),
        ("{}\n", "line 1 is not as it should be"),
        ('{"file_name": "9.wav", "text": "a"}\n', "names 9.wav, which is not in"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(folder, content, complaint):
    (folder / "metadata.jsonl").unlink()
    if content is not None:
        (folder / "metadata.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(BenchError, match=complaint):
        sets.folder(folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "noises"], "There is no set and no folder 'noises'; the sets are clean, noise"),
        (["bench", "noise", "--limit", "0"], "--limit is 0"),
        (["bench", "noise", "--weights", "int8,int2"], "--weights is 'int8,int2': name one of auto, fp32, bf16"),
        (["bench", "noise", "--weights", "int8,auto"], "or several but auto"),
        (["bench", "noise", "--variant", "dpo"], "has no variant 'dpo'; choose of base, sft, rl"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*arguments, "--model", "tiny"]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and shown.err.count("\n") == 1 and shown.out == ""


def test_the_sets_are_listed(capsys):
    assert cli.main(["bench", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SETS)


def test_both_of_a_minimal_pair_must_be_right_and_the_interval_is_wilsons():
    right, wrong = ("[sad] a", "[sad] a"), ("[calm] a", "[sad] a")
    share, low, high = running.both_right([right, right, right, wrong, right, right, wrong, wrong])
    assert share == 0.5  # 2 of 4: Wilson's 95 % interval is 0.150 to 0.850
    assert (low, high) == (pytest.approx(0.150, abs=1e-3), pytest.approx(0.850, abs=1e-3))


def test_a_clip_counts_as_plain_and_tagged_only_without_tags_in_its_reference():
    rows = [
        {"reference": reference, "predictions": {"rl": prediction}, "seconds": 1.0}
        for prediction, reference in (("[sad] a", "a"), ("a", "a"), ("[sad] a", "[sad] a"))
    ]
    kept = [(Clip("s", "r", k, row["reference"], None), row) for k, row in enumerate(rows)]
    found = running.results(kept, ["rl"])["s"]["rungs"]["r"]["variants"]["rl"]
    assert found["plain_tagged"] == 0.5
    whole = {"sets": running.results(kept, ["rl"]), "left_out": {"natural": "/home/me"}, "calibration": {}}
    brief = running.brief(whole)
    assert brief["left_out"] == ["natural"]
    assert brief["sets"]["s"]["rungs"]["r"]["variants"]["rl"]["plain_tagged"][0] == 0.5


def test_the_length_of_a_clip_fits_the_scale_models_window():
    for line in LINES[::300]:
        waveform = sets.Text(**line).spoken()
        assert 0 < audio.duration(waveform) <= ladders.WINDOW


def test_the_verdict_on_the_last_adapter_names_the_rungs_whose_interval_leaves_zero_out():
    def rung(change):
        own = {"tagged_placed_tag_f1": [0.5, 0.4, 0.6]}
        return {"n": 7, "variants": {"sft": own}, "differences": {"rl - sft": {"tagged_placed_tag_f1": change}}}

    rungs = {"loud": rung([0.1, 0.02, 0.2]), "far": rung([-0.1, -0.2, -0.01]), "near": rung([0.1, -0.1, 0.2])}
    origin = {"model": "m", "weights": "w", "seed": 0, "date": "d", "variants": ["base", "sft", "rl"]}
    shown = ladders.verdict(origin | {"sets": {"noise": {"rungs": rungs}}})
    assert "RL is better than SFT on noise, loud (Tag F1 by place). RL is worse than SFT on noise, far" in shown
    assert "| noise, loud | 7 | 50.0, **+10.0** (+2.0 to +20.0) | – |" in shown
    assert "| noise, near | 7 | 50.0, +10.0 (−10.0 to +20.0) | – |" in shown
    committed = ladders.verdict(json.loads(ladders.RESULTS.read_text(encoding="utf-8")))
    assert committed in ladders.PAGE.read_text(encoding="utf-8")
