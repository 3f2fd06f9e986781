"""`python -m evoxtral`, as a person at a shell sees it: stdout, stderr and the exit code."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import save_adapter, spoken, tone
from test_recordings import container

from evoxtral import audio, cli
from evoxtral.inference import multitrack
from evoxtral.inference.sampling import Decoding
from evoxtral.metrics import METRICS
from evoxtral.results import FileResult

ROOT = Path(__file__).parents[1]
SENTENCE = "[sighs] I left my keys in the car."


@pytest.fixture
def run(capsys, tmp_path, monkeypatch, engines):
    """Run one command in an empty folder: gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def assert_one_sentence(code: int, out: str, err: str, *mentioned: str) -> None:
    """What every mistake looks like."""
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and "Traceback" not in err
    for words in mentioned:
        assert words in err


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


# --- the command line itself ------------------------------------------------------------------------------


def test_help_needs_no_model(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["--help"])
    assert exit.value.code == 0
    out = capsys.readouterr().out
    for command in ("transcribe", "speak", "score", "info", "merge"):
        assert command in out


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        ([], "COMMAND"),
        (["sing"], "'sing'"),
        (["transcribe"], "FILE"),
        (["transcribe", "a.wav", "--format", "xml"], "'xml'"),
        (["speak", "hello"], "--output"),
        (["speak", "hello", "-o", "a.wav", "--seed", "one"], "'one'"),
        (["score", "a.jsonl", "--loud"], "--loud"),
    ],
)
def test_a_bad_argument_is_one_sentence_that_names_it_and_points_to_the_help(run, arguments, mentioned):
    assert_one_sentence(*run(*arguments), mentioned, "--help")


def test_module_entry_point_and_a_closed_pipe_is_no_error():
    command = f'"{sys.executable}" -m evoxtral speak --help | head -n 1; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m evoxtral speak")
    assert done.stderr == ""


# --- speak ------------------------------------------------------------------------------------------------


def test_speak_writes_a_16_khz_file_and_nothing_to_stdout(run):
    code, out, _ = run("speak", SENTENCE, "-o", "said.wav")
    assert (code, out) == (0, "")
    assert audio.duration(audio.load(Path("said.wav"))) > 1


def test_speak_is_deterministic_for_a_seed(run):
    for name, seed in (("a.wav", 1), ("b.wav", 1), ("c.wav", 2)):
        run("speak", SENTENCE, "-o", name, "--seed", seed)
    a, b, c = (Path(name).read_bytes() for name in ("a.wav", "b.wav", "c.wav"))
    assert a == b != c


def test_a_tag_without_a_sound_is_skipped_and_named(run):
    code, _, err = run("speak", "[levitates] Hello.", "-o", "said.wav")
    assert code == 0
    assert "[levitates]" in err


def test_quiet_prints_no_progress(run):
    assert run("--quiet", "speak", "Hello.", "-o", "said.wav") == (0, "", "")


def test_the_help_of_speak_lists_the_voices(capsys):
    from evoxtral.speech import VOICES

    with pytest.raises(SystemExit):
        cli.main(["speak", "--help"])
    assert set(VOICES) <= set(capsys.readouterr().out.replace(",", " ").split())


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["Hello.", "-o", "no/such/folder/said.wav"], "no/such/folder"),
        (["Hello.", "-o", "said.mp3"], "said.mp3"),
        (["Hello.", "-o", "said.wav", "--voice", "nobody"], "nobody"),
        (["", "-o", "said.wav"], "speak"),
        (["Hello.", "-o", "said.wav", "--seed", "-1"], "seed is -1"),
        (["Hello.", "-o", "said.wav", "--voice", "\udcff"], "does not exist"),
    ],
)
def test_speak_errors_are_one_sentence(run, arguments, mentioned):
    assert_one_sentence(*run("speak", *arguments), mentioned)


# --- score ------------------------------------------------------------------------------------------------


def pair(prediction: str, reference: str) -> str:
    return json.dumps({"prediction": prediction, "reference": reference}, ensure_ascii=False)


def test_score_gives_the_seven_scores_as_fractions_and_every_tag(run, tmp_path):
    pairs = pair("[sighs] so it is", "[sighs] so it IS [laughs]"), "", pair("a", "a")
    file = write_lines(tmp_path / "pairs.jsonl", *pairs)
    code, out, _ = run("score", file, "--json")
    assert code == 0
    result = json.loads(out)
    assert {key: result[key] for key in ("n", *(metric.name for metric in METRICS))} == {
        "n": 2,
        "wer": 0.0,
        "cer": 0.0,
        "tag_precision": 1.0,
        "tag_recall": 0.75,
        "tag_f1": pytest.approx((2 / 3 + 1) / 2),
        "emphasis_f1": 0.5,
        "tag_hallucination": 0.0,
    }
    assert result["per_tag"] == {
        "sighs": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1},
        "laughs": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
    }
    low, high = result["intervals"]["tag_recall"]
    assert low <= result["tag_recall"] <= high


def test_without_json_the_scores_are_a_table(run, tmp_path):
    code, out, _ = run("score", write_lines(tmp_path / "pairs.jsonl", pair("[sighs] hello", "[sighs] hello")))
    assert code == 0
    rows = dict(line.split(maxsplit=1) for line in out.splitlines() if line)
    assert rows["n"] == "1" and rows["tag_f1"] == "100.0%"
    assert rows["sighs"].split() == ["1.000", "1.000", "1.000", "1"]


def test_score_reads_other_systems_transcripts(run, tmp_path):
    file = write_lines(tmp_path / "pairs.jsonl", pair("Ha. (giggles)", "Ha. [laughs]"))
    scores = [json.loads(run("score", file, *asked, "--json")[1])["tag_f1"] for asked in ([], ["--format", "scribe"])]
    assert scores == [0, 1]
    table = " ".join(run("score", file, "--format", "scribe")[1].split())
    assert "tagged_placed_tag_f1 100.0% 100.0% – 100.0%" in table
    assert_one_sentence(*run("score", file, "--format", "braille"), "braille")


def test_an_undefined_score_is_null_in_json(run, tmp_path):
    file = write_lines(tmp_path / "pairs.jsonl", pair("hello", "[sighs]"))
    _, out, _ = run("score", file, "--json")
    assert json.loads(out)["wer"] is None
    assert run("score", file)[0] == 0


def test_only_a_line_feed_ends_a_line(run, tmp_path):
    file = write_lines(tmp_path / "pairs.jsonl", pair("one\u2028two", "one\u2028two"))
    assert json.loads(run("score", file, "--json")[1])["n"] == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "is not JSON"),
        ("[" * 9_999, "is not JSON"),
        ("1" * 5000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ('"a"', "is not a JSON object"),
        ('{"prediction": "a"}', 'has no "reference"'),
        ('{"prediction": 1, "reference": ""}', 'has a "prediction" that is not text'),
        (r'{"prediction": "a", "reference": "\ud83d"}', 'has half a surrogate pair in its "reference"'),
    ],
    ids=["half", "deep", "long number", "list", "text", "no reference", "number", "surrogate"],
)
def test_a_malformed_line_is_named_by_its_number_with_what_is_wrong(run, tmp_path, line, complaint):
    file = write_lines(tmp_path / "pairs.jsonl", pair("a", "a"), "", line, pair("b", "b"))
    assert_one_sentence(*run("score", file), f"{file}, line 3 {complaint}: each line should be ")


def test_a_file_without_lines_of_text_is_one_sentence(run, tmp_path):
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\x00\xff\xfe")
    for file in (write_lines(tmp_path / "empty.jsonl"), binary, tmp_path / "missing.jsonl", tmp_path):
        assert_one_sentence(*run("score", file), str(file))


# --- transcribe -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(checkpoint) -> Path:
    """The tests' own model, as a folder with base/, sft/ and rl/."""
    return Path(checkpoint.base).parent


@pytest.fixture
def clip(tmp_path) -> Path:
    audio.save(tmp_path / "clip.wav", tone(1.5))
    return tmp_path / "clip.wav"


@pytest.fixture
def broken(tmp_path) -> Path:
    return write_lines(tmp_path / "broken.wav", "this is no recording")


@pytest.mark.parametrize(("asked", "given"), [("all", ["base", "sft", "rl"]), ("sft", ["sft"])])
def test_json_is_a_list_with_one_object_for_every_file(run, model, clip, engine, asked, given):
    options = ("--variant", asked, "--model", model, "--format", "json")
    code, out, _ = run("transcribe", clip, "clip.wav", *options)
    assert code == 0
    first, second = json.loads(out)
    assert (first["file"], second["file"]) == (str(clip), "clip.wav")
    assert set(first) == {*FileResult.__dataclass_fields__}
    assert first["duration"] == pytest.approx(1.5)
    assert first["model"] == str(model)
    assert list(first["variants"]) == given
    for variant, entry in first["variants"].items():
        expected = engine.transcribe(clip, variant)
        assert set(entry) == {*"text plain tags elapsed truncated confidence doubtful segments cues words".split()}
        assert (entry["text"], entry["plain"], entry["truncated"]) == (
            expected.text,
            expected.plain,
            expected.truncated,
        )
        assert [tag["name"] for tag in entry["tags"]] == [tag.name for tag in expected.tags]
        assert all(set(tag) == {"name", "category", "offset", "probability"} for tag in entry["tags"])


def test_one_variant_of_one_file_is_the_bare_text(run, model, clip, engine):
    code, out, _ = run("transcribe", clip, "--variant", "sft", "--model", model)
    assert (code, out) == (0, engine.transcribe(clip, "sft").text + "\n")


def test_a_recording_longer_than_allowed_is_refused_with_both_lengths(run, model, clip):
    assert_one_sentence(*run("-q", "transcribe", clip, "--model", model, "--max-seconds", "1"), "1.5", "1")


def test_a_truncated_text_is_reported(run, model, clip, monkeypatch):
    monkeypatch.setattr(Decoding, "budget", lambda *_: 3)
    _, _, told = run("transcribe", clip, "--variant", "sft", "--model", model)
    assert "cut at the length limit or in a loop: sft." in told


def test_the_default_variant_is_rl(run, model, clip, engine):
    assert run("transcribe", clip, "--model", model)[1] == engine.transcribe(clip, "rl").text + "\n"


def test_a_merged_folder_is_a_model_with_one_variant(run, model, clip, engine):
    assert run("merge", "--model", model, "-o", "merged")[:2] == (0, "")
    assert run("transcribe", clip, "--model", "merged")[:2] == (0, engine.transcribe(clip, "rl").text + "\n")
    assert_one_sentence(*run("-q", "merge", "--model", "merged", "-o", "again"), "'base' cannot be merged", "none")


def test_several_texts_have_headings(run, model, clip):
    code, out, _ = run("transcribe", "clip.wav", "--variant", "all", "--model", model)
    headings = [line for line in out.splitlines() if line.startswith("== ")]
    assert headings == ["== clip.wav · base ==", "== clip.wav · sft ==", "== clip.wav · rl =="]


def test_a_doubtful_text_gets_a_warning_on_stderr(run, model, clip):
    code, out, err = run("-q", "transcribe", clip, "--model", model, "--format", "json")
    entry = json.loads(out)[0]["variants"]["rl"]
    assert code == 0 and entry["doubtful"] and 0 <= entry["confidence"] < 0.5  # its weights are random
    assert [line for line in err.splitlines() if "This does not sound like speech that this model knows" in line]


@pytest.mark.parametrize("form", ["json", "txt"])
def test_a_file_that_fails_is_named_and_the_others_are_transcribed(run, model, clip, broken, form):
    code, out, err = run("-q", "transcribe", broken, clip, "none.wav", "--model", model, "--format", form)
    assert code == 2
    failed = [line.split(":")[0] for line in err.splitlines() if not re.search("cut at|expect mistakes", line)]
    assert failed == [str(broken), "none.wav"]
    if form == "json":
        first, second, third = json.loads(out)
        assert (first["file"], second["file"], third["file"]) == (str(broken), str(clip), "none.wav")
        assert list(second["variants"]) == ["rl"]
        assert err.splitlines()[0] == f"{broken}: {first['error']}"
        assert set(first) == set(third) == {"file", "error"}
    else:
        assert out.startswith(f"== {clip} · rl ==\n")


def test_ctrl_c_still_prints_the_finished_json(run, model, clip, monkeypatch):
    transcribe = multitrack.transcribe

    def interrupted(engine, file, *rest, **options):
        if file.name == "second.wav":
            raise KeyboardInterrupt
        return transcribe(engine, file, *rest, **options)

    monkeypatch.setattr(multitrack, "transcribe", interrupted)
    code, out, _ = run("transcribe", clip, "second.wav", "--model", model, "--format", "json")
    assert code == 130
    assert [entry["file"] for entry in json.loads(out)] == [str(clip)]


def test_every_format_goes_to_stdout_and_into_a_file(run, model, clip, engine):
    transcript = engine.transcribe(clip, "rl")
    for form in ("txt", "srt", "vtt", "prompt"):
        given = run("transcribe", clip, "--model", model, "--format", form)
        expected = transcript.export(form).rstrip("\n") + "\n"
        assert given[:2] == (0, expected)
        named = ("--format", form, "-o", "as.prompt") if form == "prompt" else ("-o", f"as.{form}")
        assert run("transcribe", clip, "--model", model, *named)[:2] == (0, "")
        assert Path(f"as.{form}").read_bytes().decode() == expected
    run("transcribe", clip, "--model", model, "-o", "as.json")
    (entry,) = json.loads(Path("as.json").read_text(encoding="utf-8"))
    assert entry["variants"]["rl"]["text"] == transcript.text


def test_in_a_folder_each_recording_and_variant_has_its_own_file(run, model, clip, broken, engine):
    (clip.parent / "clip.flac").write_bytes(clip.read_bytes())
    asked = ("transcribe", clip, "clip.flac", broken, "--model", model, "--format", "srt", "--variant", "all")
    code, out, err = run(*asked, "-o", "out")
    assert (code, out) == (2, "") and str(broken) in err
    names = sorted(f"clip.{kind}.{variant}.srt" for kind in ("wav", "flac") for variant in engine.variants)
    assert sorted(file.name for file in Path("out").iterdir()) == names
    text = Path("out/clip.wav.sft.srt").read_bytes().decode()
    assert text.rstrip() == engine.transcribe(clip, "sft").to_srt().rstrip()


@pytest.mark.parametrize(
    ("options", "mentioned"),
    [
        (["clip.wav", "clip.wav", "--format", "srt"], "name a folder with -o"),
        (["clip.wav", "--variant", "all", "-o", "a.vtt"], "name a folder with -o"),
        (["clip.wav", "-o", "a.docx"], "a.docx does not say what to write"),
        (["clip.wav", "other/clip.wav", "-o", "out"], "both named clip.wav"),
        (["clip.wav", "-o", "clip.wav/a.txt"], "clip.wav/a.txt cannot be written"),
    ],
)
def test_output_errors_are_one_sentence(run, model, clip, options, mentioned):
    assert_one_sentence(*run("-q", "transcribe", *options, "--model", model), mentioned)


def test_a_pipe_is_read_like_a_file(run, model, clip, engine, monkeypatch):
    def piped(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    said = engine.transcribe(clip, "rl").text + "\n"
    piped(clip.read_bytes())
    assert run("transcribe", "-", "--model", model)[:2] == (0, said)
    read, write = os.pipe()
    with os.fdopen(read, "rb"), os.fdopen(write, "wb") as pipe:
        pipe.write(clip.read_bytes())
        pipe.close()
        assert run("transcribe", f"/dev/fd/{read}", "--model", model)[:2] == (0, said)
    piped(b"")
    assert_one_sentence(*run("-q", "transcribe", "-", "--model", model), "-: ", "empty")
    monkeypatch.setattr("evoxtral.audio.MAX_MEGABYTES", 1e-5)
    piped(clip.read_bytes())
    assert_one_sentence(*run("-q", "transcribe", "-", "--model", model), "More than 1e-05 MB were piped in")


def test_an_unknown_model_or_variant_is_one_sentence_before_anything_is_loaded(run, model, clip):
    assert_one_sentence(*run("-q", "transcribe", clip, "--model", "no-such-model"), "no-such-model")
    asked = run("-q", "transcribe", clip, "--model", model, "--variant", "best")
    assert_one_sentence(*asked, "best", "base, sft, rl")


@pytest.fixture
def call(tmp_path) -> str:
    """A stereo recording with a speaker on each side, whose header says that it is longer."""
    path = tmp_path / "call.wav"
    left, right = np.zeros(40_000, np.float32), np.zeros(40_000, np.float32)
    left[:16_000], right[20_000:36_000] = tone(1.0), tone(1.0, seed=1)
    soundfile.write(path, np.stack([left, right], axis=1), 16_000)
    path.write_bytes(path.read_bytes()[:-6_000])
    return str(path)


def test_an_incomplete_recording_is_transcribed_with_a_warning_unless_strict(run, model, call):
    code, out, err = run("-q", "transcribe", call, "--model", model, "--format", "json")
    (result,) = json.loads(out)
    assert code == 0 and "incomplete" in err
    assert result["incomplete"] == "has 154,000 of 160,000 bytes of sound"
    assert_one_sentence(*run("-q", "transcribe", call, "--model", model, "--strict"), "incomplete")


def test_the_channels_of_a_call_are_written_by_name_in_the_order_of_time(run, model, call):
    code, out, _ = run("-q", "transcribe", call, "--model", model, "--channels", "each", "--format", "json")
    (result,) = json.loads(out)
    assert code == 0 and result["channel"] == "left, right"
    (entry,) = result["variants"].values()
    assert [segment["channel"] for segment in entry["segments"]] == ["left", "right"]
    assert {cue["channel"] for cue in entry["cues"]} == {"left", "right"}
    assert "Left" not in entry["text"]
    assert [segment["start"] for segment in entry["segments"]] == pytest.approx([0, 1.25], abs=0.3)
    one = json.loads(run("-q", "transcribe", call, "--model", model, "--channels", "2", "--format", "json")[1])
    assert one[0]["channel"] == "right"


@pytest.mark.parametrize("asked", [("--track", "each"), ("--channels", "each"), ()])
def test_of_several_tracks_a_folder_has_one_file_with_all_of_them(run, model, tmp_path, asked):
    meeting = tmp_path / "meeting.mkv"
    in_turn, at_once = ([(0.0, tone(1.2))], [(1.5, tone(1.2))]), ([(0.0, spoken(2.0))], [(0.0, spoken(2.0, seed=1))])
    meeting.write_bytes(container("matroska", *(in_turn if asked else at_once)))
    for form in ("json", "vtt", "srt") if asked == () else ("json", "srt"):
        out = f"{tmp_path / form}/"
        code, _, _ = run("-q", "transcribe", str(meeting), "--model", model, *asked, "--format", form, "-o", out)
        assert code == 0 and [file.name for file in Path(out).iterdir()] == [f"meeting.{form}"]
    assert json.loads((tmp_path / "json" / "meeting.json").read_text())["channel"] == "track 1, track 2"


def test_tracks_and_channels_are_listed(run, call, tmp_path):
    (listed,) = json.loads(run("tracks", call, "--json")[1])
    track = {"number": 1, "name": "", "language": "", "channels": ["left", "right"], "rate": 16_000, "decodes": True}
    assert listed == {"file": call, "tracks": [track]}
    assert run("tracks", call)[1] == f"{call} · track 1: left, right, 16,000 Hz\n"
    (tmp_path / "letter.wav").write_text("Dear Sir,")
    assert_one_sentence(*run("tracks", str(tmp_path / "letter.wav")), "letter.wav")


@pytest.mark.parametrize("asked", [("--track", "0"), ("--track", "x"), ("--channels", "all"), ("--channels", "3")])
def test_a_missing_track_or_channel_is_one_sentence(run, model, call, asked):
    assert_one_sentence(*run("-q", "transcribe", call, "--model", model, *asked), asked[0].strip("-").rstrip("s"))


# --- info and merge ---------------------------------------------------------------------------------------


def test_info_counts_the_published_model_without_its_weights(run):
    code, out, _ = run("info", "--model", "mini-3b", "--json")
    assert code == 0
    assert json.loads(out) == {
        "model": "mini-3b",
        "variants": ["base", "sft", "rl"],
        "total_parameters": 4_801_051_648,
        "trainable_parameters": 124_780_544,
    }


def test_info_as_text_has_the_share_of_trainable_parameters(run):
    _, out, _ = run("info", "--model", "mini-3b")
    assert "4,801,051,648 parameters, 124,780,544 of them trainable (2.5990%)" in out


def test_info_counts_an_existing_adapter_and_reports_a_missing_one(run, model, monkeypatch, tmp_path):
    def trainable() -> int:
        return json.loads(run("info", "--model", model, "--json")[1])["trainable_parameters"]

    save_adapter(model / "base", tmp_path / "small", seed=1, r=2, lora_alpha=4)
    of_rl = trainable()
    monkeypatch.setenv("EVOXTRAL_ADAPTERS", "mine=small")
    assert trainable() == of_rl / 2
    for missing in ("./nofolder", "/no/folder", "me/my--model"):
        monkeypatch.setenv("EVOXTRAL_ADAPTERS", f"mine={missing}")
        assert_one_sentence(*run("-q", "info", "--model", model), f"{missing} is neither a folder nor a Hub id")


def test_merge_writes_a_model_that_transcribes_as_the_variant_does(run, model, clip, engine):
    assert run("merge", "--variant", "rl", "--model", model, "-o", "merged/base")[:2] == (0, "")
    _, out, _ = run("transcribe", clip, "--variant", "base", "--model", "merged")
    assert out == engine.transcribe(clip, "rl").text + "\n"


def test_merge_refuses_what_it_cannot_do(run, model, tmp_path):
    (tmp_path / "full").mkdir()
    write_lines(tmp_path / "full" / "mine.txt")
    assert_one_sentence(*run("-q", "merge", "--variant", "base", "--model", model, "-o", "new"), "base")
    assert_one_sentence(*run("-q", "merge", "--model", model, "-o", "full"), "full")
    assert_one_sentence(*run("-q", "merge", "--model", model, "-o", "."), "name a new folder")
