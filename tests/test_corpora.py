"""Corpora: what is read, what is found wrong before training, how clips are split, and what training makes of them."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from conftest import spoken, tone
from local_hub import LocalHub
from test_audio import encode

from evoxtral import audio
from evoxtral.errors import RecipeError
from training import corpus as command
from training import dataset, recipe, run
from training.corpora import checking, clips, page, reading, splitting
from training.corpora.reading import Columns, Row, Source

RATE = audio.SAMPLE_RATE


def flac(seconds: float = 2.0, seed: int = 0, gain: float = 1.0, sound: Callable = tone) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, gain * sound(seconds, seed), RATE, format="FLAC")
    return file.getvalue()


SOUNDS = [flac(seed=seed) for seed in range(12)]


def write(folder: Path, *lines: dict, table: str = "metadata.jsonl") -> Path:
    """A corpus whose recordings all sound different, unless a line's file is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(lines):
        path = folder / str(line.get("file_name", "x.flac"))
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(SOUNDS[number % len(SOUNDS)])
    if table.endswith(".jsonl"):
        (folder / table).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    elif table.endswith(".csv"):
        with (folder / table).open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, lines[0], delimiter=";")
            writer.writeheader(), writer.writerows(lines)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(lines)), folder / table)
    return folder


def lines(count: int, **more) -> list[dict]:
    """Rows of different sentences; the word `train` in a name must mean nothing."""
    return [{"file_name": f"train{i}.flac", "text": f"[sighs] Sentence number {i}."} | more for i in range(count)]


def found(folder: Path, window: float = 10.0, **columns) -> list[str]:
    report = checking.check(reading.read(str(folder), Columns(**columns)), window)
    return [str(finding) for finding in report.findings if finding.fatal]


# ---- reading ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", reading.TABLES)
def test_each_table_of_an_audiofolder_gives_the_same_rows(tmp_path, table):
    given = [
        {"file_name": f"a{i}.flac", "text": text, "speaker": "null"} for i, text in enumerate(("NA", "No, [sad]."))
    ]
    rows = reading.read(str(write(tmp_path, *given, table=table))).rows
    assert [(row.name, row.text, row.speaker) for row in rows] == [
        ("a0.flac", "NA", "null"),
        ("a1.flac", "No, [sad].", "null"),
    ]
    assert rows[0].where.startswith(table) and all(row.source.path.is_file() for row in rows)


def parquet(path: Path, texts: list[str], **columns: list) -> None:
    """A file as `datasets` pushes it: bytes and the name of each recording in a struct, two row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": SOUNDS[i % len(SOUNDS)], "path": f"clip{i}.flac"} for i in range(len(texts))]
    table = pyarrow.table({"audio": cells, "text": texts} | columns)
    pyarrow.parquet.write_table(table, path, row_group_size=max(1, len(texts) // 2))


def test_parquet_with_audio_has_its_splits_in_its_names_and_is_heard(tmp_path):
    for split, count in (("train", 5), ("validation", 1), ("test", 1)):
        texts = [f"{split} says {i}." for i in range(count)]
        parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", texts, speaker_id=[7] * count)
    corpus = reading.read(str(tmp_path))
    assert [row.split for row in corpus.rows] == ["test", *["train"] * 5, "validation"]
    assert corpus.rows[0].speaker == "7" and corpus.rows[0].name == "clip0.flac"
    heard = [clip for group in corpus.rows for clip, *_ in checking.hear(group.source, [group], 10)]
    direct = [audio.load(SOUNDS[i]) for i in (0, *range(5), 0)]
    assert [clip.seconds for clip in heard] == [audio.duration(waveform) for waveform in direct]


def test_parquet_without_bytes_is_said_to_have_no_audio(tmp_path):
    """As `Dataset.to_parquet` writes it: absolute paths of another machine."""
    table = pyarrow.table({"audio": [{"bytes": None, "path": "/home/me/a.wav"}], "text": ["Hello."]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert found(tmp_path)[0] == (
        "a.parquet, row 1: has no audio, only the path '/home/me/a.wav': embed the bytes, or add the file."
    )


def test_a_dataset_of_the_hub_is_fetched_and_its_columns_can_be_named(tmp_path, monkeypatch):
    parquet(tmp_path / "repo" / "data" / "train.parquet", ["one", "two"], sentence=["[sighs] One.", "Two."])
    with LocalHub({}, datasets={"me/speech": tmp_path / "repo"}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        corpus = reading.read("me/speech", Columns(text="sentence"))
        assert [row.text for row in corpus.rows] == ["[sighs] One.", "Two."]
        with pytest.raises(RecipeError, match="no such dataset on the Hub"):
            reading.read("me/nothing")
    with pytest.raises(RecipeError, match=r"^There is no folder nowhere/at/all: give the folder"):
        reading.read("nowhere/at/all")


def test_times_cut_a_long_recording_into_clips(tmp_path):
    (tmp_path / "long.flac").write_bytes(flac(25))
    times = [(0, 8), (8, 16), (16, 25)]
    given = [
        {"file_name": "long.flac", "text": f"This is part number {i}.", "start": a, "end": b}
        for i, (a, b) in enumerate(times)
    ]
    corpus = reading.read(str(write(tmp_path, *given)))
    report = checking.check(corpus, 10)
    assert [clip.seconds for clip in report.clips] == [8, 8, 9]
    whole = audio.load(tmp_path / "long.flac")
    assert np.array_equal(checking.cut(corpus.rows[1], whole), whole[8 * RATE : 16 * RATE])
    assert {clip.row.split for clip in report.clips} == {*splitting.SHARES} and not report.fatal
    assert "within recordings too" in report.splitting and "segments of long.flac" in str(report.findings)


# ---- what is found wrong ------------------------------------------------------------------------------------------


def test_a_good_corpus_has_no_fatal_finding(tmp_path):
    assert found(write(tmp_path, *lines(10))) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"file_name": "gone.flac"}, "there is no gone.flac"),
        ({"text": ""}, "has an empty text"),
        ({"text": None}, "has no text"),
        ({"text": "[sighs Hello."}, "has a bracket that is not closed"),
        ({"text": "Hello. laughs]"}, "has a bracket that is not closed"),
        ({"text": "(laughs) Hello."}, "(laughs) would be trained as words: a tag stands in brackets, [laughs]."),
        ({"text": "*sighs* Hello."}, "a tag stands in brackets, [sighs]"),
        ({"text": "<whispering>Hello.</whispering>"}, "a tag stands in brackets, [whispering]"),
        ({"text": "word " * 40}, "characters cannot be said in 2.0 s"),
        ({"split": "holdout"}, "is of the split 'holdout': write train, validation or test."),
        ({"start": "soon"}, "has start = 'soon': write seconds"),
        ({"start": 3, "end": 1}, "starts at 3 s and ends at 1 s"),
        ({"start": 5, "end": 9}, "is 2.0 s long and the clip ends at 9 s: check times."),
    ],
)
def test_each_bad_line_is_named_with_what_to_do(tmp_path, line, sentence):
    good = lines(10)
    folder = write(tmp_path, *good)
    bad = {"file_name": "train3.flac", "text": "[sighs] Another sentence."} | line
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*good[:3], bad, *good[4:]]))
    (complaint,) = found(folder)
    assert complaint.startswith("metadata.jsonl, line 4: ") and sentence in complaint and complaint.endswith(".")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"not audio at all", "train3.flac"),
        (flac(gain=0.0), "is silent: record it again"),
        (flac(12), "is 12.0 s long and the model hears 10 s at once: give start and end of each sentence, or cut it."),
        (flac(9, sound=spoken), 'its text is "Hi.": write all that is said.'),
    ],
)
def test_each_bad_recording_is_named(tmp_path, content, sentence):
    given = lines(10)
    given[3]["text"] = "Hi."
    folder = write(tmp_path, *given)
    (folder / "train3.flac").write_bytes(content)
    (complaint,) = found(folder)
    assert complaint.startswith("metadata.jsonl, line 4: ") and sentence in complaint


def test_a_sentence_or_a_recording_in_two_splits_is_found(tmp_path):
    given = [line | {"split": split} for line, split in zip(lines(6), ["train"] * 4 + ["dev", "test"], strict=True)]
    given[4]["text"] = "[laughs] sentence NUMBER 0!"
    folder = write(tmp_path, *given)
    shutil.copyfile(folder / "train1.flac", folder / "train5.flac")
    complaints = found(folder)
    assert len(complaints) == 2 and all("a score on it would say nothing" in each for each in complaints)
    assert complaints[0].startswith("metadata.jsonl, line 5: the sentence of train4.flac is in validation and in train")
    assert complaints[1].startswith("metadata.jsonl, line 6: the recording of train5.flac is in test and in train")


def test_lines_that_are_no_rows_are_named_and_the_others_read(tmp_path):
    write(tmp_path, *lines(3))
    text = (tmp_path / "metadata.jsonl").read_text()
    (tmp_path / "metadata.jsonl").write_text("{broken\n[1]\n" + text)
    corpus = reading.read(str(tmp_path))
    assert [finding.where for finding in corpus.findings] == ["metadata.jsonl, line 1", "metadata.jsonl, line 2"]
    assert len(corpus.rows) == 3
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\ntrain0.flac,Hello, you.\ntrain1.flac,Hello\n")
    corpus = reading.read(str(tmp_path))
    assert [str(finding) for finding in corpus.findings] == [
        'metadata.csv, line 2: has not the 2 values of the first line: put text with commas in "…".'
    ]


# ---- errors of a newcomer -----------------------------------------------------------------------------------------


def checked(folder: Path, capsys, *more: str) -> tuple[int, str]:
    code = command.main(["check", str(folder), "--window", "10", "--page", str(folder / "page.html"), *more])
    return code, capsys.readouterr().err


def test_a_csv_with_a_wrong_column_says_how_to_name_it(tmp_path, capsys):
    given = [{"path": f"{i}.flac", "text": f"Sentence number {i}."} for i in range(10)]
    write(tmp_path, *given, table="metadata.csv")
    for i in range(10):
        (tmp_path / f"{i}.flac").write_bytes(SOUNDS[i])
    code, told = checked(tmp_path, capsys)
    assert code == 2 and told == (
        "metadata.csv has no column 'file_name', but path, text: rename a column, or say which it is with "
        "--audio-column.\n"
    )
    assert checked(tmp_path, capsys, "--audio-column", "path")[0] == 0


def test_an_mp4_is_taken_and_one_that_is_called_wav_in_the_table_is_found(tmp_path, capsys):
    given = lines(10)
    given[2]["file_name"] = "Clip.wav"
    folder = write(tmp_path, *given)
    (folder / "Clip.wav").unlink()
    (folder / "clip.mp4").write_bytes(encode("mp4", "aac"))
    code, told = checked(folder, capsys)
    assert code == 2 and told.splitlines()[0] == (
        "metadata.jsonl, line 3: there is no Clip.wav, but clip.mp4: write that name; WAV, MP3, M4A, MP4 and others "
        "are read alike."
    )
    given[2]["file_name"] = "clip.mp4"
    assert checked(write(folder, *given), capsys)[0] == 0


def test_tags_in_parentheses_are_one_sentence_each(tmp_path, capsys):
    given = lines(10)
    given[0]["text"] = "(laughs) Hello, dear."
    given[1]["text"] = "He (my brother) came."  # words in parentheses are no tag
    code, told = checked(write(tmp_path, *given), capsys)
    assert code == 2 and told.count("would be trained as words") == 1 and "\nnote:" in told


def test_a_folder_without_a_table_says_what_to_write(tmp_path):
    (tmp_path / "a.wav").write_bytes(audio.wav_bytes(tone(1)))
    (tmp_path / "list.csv").write_text("file_name,text\n")
    with pytest.raises(RecipeError, match=r"has 1 recordings and no metadata.jsonl.*list.csv would be read.*file_name"):
        reading.read(str(tmp_path))


# ---- splits -------------------------------------------------------------------------------------------------------


def rows(count: int, speakers: int = 0) -> list[Row]:
    return [
        Row(f"line {i}", f"{i}.wav", Source(Path(f"{i}.wav")), f"[sighs] Sentence {i // 2}!",
            speaker=f"s{i % speakers}" if speakers else "")
        for i in range(count)
    ]  # fmt: skip


def shares(split: list[Row]) -> dict[str, float]:
    return {name: sum(row.split == name for row in split) / len(split) for name in splitting.SHARES}


def test_without_speakers_eight_in_ten_are_trained_on_and_no_sentence_is_in_two_splits():
    split, how = splitting.split(rows(400))
    assert shares(split) == pytest.approx(splitting.SHARES, abs=0.01) and "by sentence, seed 42" in how
    by_sentence = {splitting.sentence(row.text): row.split for row in split}
    assert all(by_sentence[splitting.sentence(row.text)] == row.split for row in split)
    assert splitting.split(rows(400))[0] == split


def test_speakers_are_kept_apart_where_there_are_enough():
    split, how = splitting.split([row for row in rows(400, speakers=20)][::2])
    assert shares(split) == pytest.approx(splitting.SHARES, abs=0.06) and "by speaker (10)" in how
    assert len({(row.speaker, row.split) for row in split}) == 10


def test_two_speakers_cannot_be_kept_apart_and_it_is_said():
    split, how = splitting.split(rows(100, speakers=2))
    assert shares(split) == pytest.approx(splitting.SHARES, abs=0.03)
    assert "Speakers are in several splits, as 2 cannot be divided so." in how


def test_segments_of_a_recording_stay_together_where_there_are_enough_recordings():
    cut = [Row("", "", Source(Path(f"{i // 10}.wav")), f"Sentence {i}.", start=i % 10) for i in range(200)]
    split, how = splitting.split(cut)
    assert len({(row.source, row.split) for row in split}) == 20 and how == (
        "The clips are split 80/10/10 by sentence, seed 42."
    )
    split, how = splitting.split(cut[:20])
    assert shares(split) == splitting.SHARES and "within recordings too" in how


def test_the_corpus_s_own_splits_are_kept_only_if_all_lines_have_one():
    own = [Row("", "", Source(Path(str(i))), str(i), split="test") for i in range(10)]
    assert splitting.split(own)[0] == own
    mixed, how = splitting.split([*own, *rows(10)])
    assert len({row.split for row in mixed}) == 3 and "Not every line names its split" in how


# ---- the page -----------------------------------------------------------------------------------------------------


def test_the_page_tells_everything_and_runs_nothing_that_a_corpus_wrote(tmp_path):
    given = lines(12, speaker="<b>Ann</b>")
    given[0]["text"] = "<script>alert(1)</script> [giggles] NO way. [laughs]"
    report = checking.check(reading.read(str(write(tmp_path, *given))), 10)
    html = page.page(report)
    assert html.count("<audio") == 10 and html.count("data:audio/flac;base64,") == 10
    assert "<script" not in html and "<b>" not in html and "&lt;b&gt;Ann&lt;/b&gt;" in html
    for told in ("[sighs]", "giggles 1", "laughs 1", "11 (92%)", "LUFS", "would be trained as words", "hours"):
        assert told in html, told
    parser = HTMLParser()
    parser.feed(html)  # raises on broken markup only where the parser is strict: the tags must at least close
    assert html.count("<table>") == html.count("</table>") and html.count("<tr>") == html.count("</tr>")
    figures = page.figures(report.clips)
    assert figures["clips"].startswith("12") and figures["without a tag"] == "0 (0%)"


# ---- clips of a corpus as training reads them ---------------------------------------------------------------------


def test_a_corpus_becomes_the_clips_that_its_splits_say(tmp_path):
    folder = write(
        tmp_path / "corpus", *lines(20, language="en-US"), {"file_name": "zh.flac", "text": "Ni hao.", "language": "zh"}
    )
    clips.plan(tmp_path / "data", reading.read(str(folder)), "en")
    (folder / "metadata.jsonl").write_text("")  # what happens to the corpus later changes nothing
    config = dataset.DataConfig(hop=320)
    built = {name: clips.build(tmp_path / "data", name, config, workers=1) for name in splitting.SHARES}
    assert {name: len(found) for name, found in built.items()} == {"train": 16, "validation": 2, "test": 2}
    texts = [clip.text for found in built.values() for clip in found.clips]
    assert sorted(texts) == sorted(line["text"] for line in lines(20))
    test = built["test"]
    number = int(re.search(r"\d+", test.clips[0].text)[0])
    original = audio.levelled(audio.load(SOUNDS[number % len(SOUNDS)]))
    kept = audio.load(test.folder / test.clips[0].audio)
    assert len(kept) == len(original) and np.abs(kept - original).max() < 1e-4
    assert test.clips[0].slice == "light" and test.mel(0).shape == (test.clips[0].frames, 128)


def test_texts_that_would_teach_something_wrong_are_refused_before_a_clip_is_read(tmp_path):
    folder = write(tmp_path / "corpus", *lines(3), {"file_name": "train0.flac", "text": "(laughs) No."})
    with pytest.raises(RecipeError, match=r"^metadata.jsonl, line 4: \(laughs\) would be trained as words"):
        clips.plan(tmp_path / "data", reading.read(str(folder)), "en")
    assert not (tmp_path / "data").exists()


def test_few_clips_are_trained_on_with_a_warning(tmp_path, caplog):
    folder = write(tmp_path / "corpus", *lines(3))
    clips.plan(tmp_path / "data", reading.read(str(folder)), "en")
    assert caplog.messages == [f"{folder}: 3 clips are too few to learn from: add some."]
    assert clips.planned(tmp_path / "data")


def test_a_corpus_that_cannot_be_trained_on_is_refused_by_its_line(tmp_path):
    folder = write(tmp_path / "corpus", *lines(12))
    (folder / "train0.flac").write_bytes(flac(11))
    clips.plan(tmp_path / "data", reading.read(str(folder)), "en")
    split = next(name for name in splitting.SHARES if "number 0" in (tmp_path / "data" / f"{name}.plan").read_text())
    with pytest.raises(
        RecipeError, match=r"^metadata.jsonl, line 1: train0.flac is 11.0 s long, and the model hears 10 s"
    ):
        clips.build(tmp_path / "data", split, dataset.DataConfig(), workers=1)


# ---- recipes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[train]\nsource = 'corpus'", "corpus names the folder"),
        ("[train]\nsource = 'radio'", "'radio' must be one of"),
    ],
)
def test_a_source_without_its_corpus_is_refused(tmp_path, text, complaint):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError, match=complaint):
        recipe.load(str(tmp_path / "r.toml"))


def test_the_command_line_replaces_the_source_and_then_raft_samples_the_clips_of_training():
    changed = recipe.with_source(recipe.load("tiny"), "corpus", "folder", text_column="sentence")
    assert (changed.train.source, changed.train.corpus, changed.train.text_column) == ("corpus", "folder", "sentence")
    assert changed.fresh is None and changed.raft.supervised == 0


def test_the_3b_is_not_trained_on_the_embedded_voice_unless_that_is_said(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text('base = "mini-3b"\n')
    told = run.main(["--recipe", str(tmp_path / "mine.toml"), "--runs", str(tmp_path / "runs")])
    assert told == 2 and "would learn a robot's voice" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


# ---- corpora that others published: small files of their layouts --------------------------------------------------


def converted(kind: str, source: Path, folder: Path, *more: str) -> list[dict]:
    assert command.main(["convert", kind, str(source), str(folder), *more]) == 0
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(audio.load(folder / row["file_name"]).any() for row in rows)
    return rows


def test_nonverbal_tts_has_its_emoji_as_tags(tmp_path):
    texts = ["So 🌬️ I said 🤣 no. 🦄", "Plain words."]
    path = tmp_path / "in" / "default" / "dev" / "dev-00000.parquet"
    parquet(path, texts, Result=texts, Emotion=["happy", "neutral"], speaker_id=["a", "b"])
    first, second = converted("nonverbaltts", tmp_path / "in", tmp_path / "out", "--emotions")
    assert first["text"] == "[happy] So [breathes] I said [laughs] no. 🦄"  # no counterpart: kept as written
    assert (first["split"], first["speaker"], first["language"]) == ("validation", "a", "en")
    assert second["text"] == "Plain words."


def test_nonverbalspeech38k_has_its_sound_where_its_seconds_say(tmp_path):
    parquet(
        tmp_path / "in" / "data" / "train-0.parquet",
        ["One two three four.", "Five [throatclearing] six.", "Seven [zzt]."],
        label=["laughing", "throatclearing", "zzt"], duration=[4.0, 2.0, 2.0],
        non_verbal_region=[[2.0, 2.5], [1.0, 1.2], [1.0, 1.1]], language=["en", "en", "en"],
    )  # fmt: skip
    rows = converted("nonverbalspeech38k", tmp_path / "in", tmp_path / "out")
    assert [row["text"] for row in rows] == [
        "One two [laughs] three four.",
        "Five [clears throat] six.",
        "Seven [zzt].",
    ]


def test_wesr_bench_has_points_and_spans(tmp_path):
    texts = ["[clear_throat] I <whispering>told you</whispering> so. [roar]"]
    parquet(tmp_path / "in" / "test-0.parquet", texts, sentence=texts, language=["en"])
    (row,) = converted("wesr-bench", tmp_path / "in", tmp_path / "out")
    assert row["text"] == "[clears throat] I [whispers] told you so. [shouts]" and row["split"] == "test"


def test_smiip_nv_has_speakers_emotions_and_sounds_by_time(tmp_path):
    folder = tmp_path / "in" / "MIC-0001" / "sad"
    folder.mkdir(parents=True)
    (folder / "MIC-0001_0013.wav").write_bytes(audio.wav_bytes(tone(2)))
    (folder / "annotation.txt").write_text("MIC-0001_0013.wav\t你好我的朋友\tcrying 1.0 1.5\n", encoding="utf-8")
    (row,) = converted("smiip-nv", tmp_path / "in", tmp_path / "out", "--emotions")
    assert row["text"] == "[sad] 你好我 [crying] 的朋友" and (row["speaker"], row["language"]) == ("MIC-0001", "zh")
