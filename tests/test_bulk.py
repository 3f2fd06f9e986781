"""`python -m evoxtral bulk`: many recordings to one file of results, whatever interrupts it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import webvtt
from conftest import spoken, tone

from evoxtral import audio, cli
from evoxtral.inference import bulk, inputs, outputs
from evoxtral.results import FileResult
from evoxtral.transcript import Transcript

SILENCE = np.zeros(2 * audio.SAMPLE_RATE, np.float32)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Recordings as people have them: in folders, short, longer than a window, silent; one that is none, a link to one
    that is not there."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "inside").mkdir()
    audio.save(folder / "a.wav", tone(1.5))
    audio.save(folder / "inside" / "b.WAV", tone(3.0, seed=1))
    audio.save(folder / "long.wav", spoken(23.0, seed=2))
    audio.save(folder / "silent.wav", SILENCE)
    (folder / "broken.wav").write_text("this is no recording")
    (folder / "gone.wav").symlink_to("nowhere.wav")
    (folder / "notes.txt").write_text("nor is this, and nobody asked")
    return folder


@pytest.fixture
def run(checkpoint, capsys, tmp_path, engines):
    """Run `bulk` with the tests' own model: gives exit code, the results by file, stderr."""
    model, output = Path(checkpoint.base).parent, tmp_path / "results.jsonl"

    def run(*paths: object, variant: str = "rl") -> tuple[int, dict[str, dict], str]:
        asked = ["-q", "bulk", *map(str, paths), "-o", str(output), "--model", str(model), "--variant", variant]
        code = cli.main(asked)
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = output.read_text().splitlines() if output.exists() else []
        results = [json.loads(line) for line in lines]
        by_file = {Path(result["file"]).name: result for result in results}
        assert len(by_file) == len(results), "each file once"
        return code, by_file, captured.err

    run.output = output
    return run


def test_every_recording_of_a_folder_is_transcribed_as_by_itself(run, clips, engine):
    code, results, err = run(clips, variant="all")
    assert results.keys() == {"a.wav", "b.WAV", "long.wav", "silent.wav"}
    for result in results.values():
        alone = engine.compare(result["file"])
        for name, column in result["variants"].items():
            # In other company a row is rounded otherwise, which a random model's later tokens may hang on.
            assert column["text"][:3] == alone[name].text[:3]
        assert result["duration"] == alone["rl"].duration
        assert result.keys() == FileResult.__dataclass_fields__.keys()
    told = dict(line.split(": ", 1) for line in err.splitlines())
    assert code == 2 and told.keys() == {str(clips / "broken.wav"), str(clips / "gone.wav")}
    assert '"gone.wav" is a link' in told[str(clips / "gone.wav")]


def test_finished_files_are_skipped_and_failed_ones_are_retried(run, clips):
    run(clips / "a.wav")
    first = run.output.read_bytes()
    code, results, err = run(clips / "a.wav", clips / "inside", clips / "broken.wav")
    assert run.output.read_bytes().startswith(first) and results.keys() == {"a.wav", "b.WAV"}
    assert code == 2 and "broken.wav" in err
    assert run(clips / "a.wav", clips / "inside")[0] == 0, "nothing is left to do"


@pytest.mark.parametrize("left", [b'{"f', b'{"file": "inside/b.WAV", "dura'])
def test_an_interrupted_line_is_written_again(run, clips, left):
    run(clips / "a.wav")
    with run.output.open("ab") as file:
        file.write(left)
    code, results, _ = run(clips / "a.wav", clips / "inside")
    assert code == 0 and results.keys() == {"a.wav", "b.WAV"}


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (b"my notes", "something else than results"),
        (b"my notes\n", "line 1 is no result"),
        (b"\x89PNG\r\n\x1a\n", "line 1 is no result"),
        (b'{"file": "a.wav", "model": "tiny", "variants": {"rl": {}}}\n', "line 1 was written by rl of tiny"),
    ],
)
def test_a_file_that_cannot_be_continued_is_not_changed(run, clips, written, sentence, capsys):
    run.output.write_bytes(written)
    asked = ["-q", "bulk", str(clips), "-o", str(run.output), "--model", "tiny", "--variant", "sft"]
    assert cli.main(asked) == 2
    assert sentence in capsys.readouterr().err
    assert run.output.read_bytes() == written


def test_a_format_writes_a_file_for_each_recording_and_resumes(clips, checkpoint, engine, tmp_path, capsys):
    model, out = str(Path(checkpoint.base).parent), tmp_path / "out"
    asked = ["-q", "bulk", str(clips), "-o", str(out), "--model", model, "--variant", "sft", "--format", "vtt"]
    assert cli.main(asked) == 2, "two files are no recordings"
    written = {file.relative_to(out).as_posix(): file for file in out.rglob("*.*")}
    assert written.keys() == {"a.vtt", "inside/b.vtt", "long.vtt", "silent.vtt"}
    subtitles = webvtt.read(written["long.vtt"])
    assert len(subtitles) > 1 and all(caption.text for caption in subtitles)
    times = [(caption.start_in_seconds, caption.end_in_seconds) for caption in subtitles]  # in whole seconds
    assert times == sorted(times) and all(0 <= start <= end <= 23 for start, end in times)
    written["a.vtt"].write_text("mine")
    written["silent.vtt"].unlink()
    cli.main(asked)
    assert written["a.vtt"].read_text() == "mine" and written["silent.vtt"].exists()
    assert cli.main([*asked[:3], "-o", str(tmp_path / "a.jsonl"), "--model", model, "--format", "vtt"]) == 2
    assert "name a folder with -o" in capsys.readouterr().err


def test_only_recordings_beyond_max_seconds_are_rejected(run, clips, checkpoint, tmp_path, capsys):
    model = str(Path(checkpoint.base).parent)
    asked = ["-q", "bulk", str(clips / "a.wav"), str(clips / "long.wav"), "--max-seconds", "2"]
    assert cli.main([*asked, "-o", str(tmp_path / "r.jsonl"), "--model", model]) == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert "long.wav" in told and "23" in told and "2 s" in told
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1


def test_strict_rejects_incomplete_recordings(run, clips, tmp_path, capsys):
    torn = tmp_path / "torn.wav"
    torn.write_bytes((clips / "a.wav").read_bytes()[:-16_000])
    code, results, err = run(torn)
    assert code == 0 and results["torn.wav"]["incomplete"] == "has 32,000 of 48,000 bytes of sound"
    assert f"{torn}: incomplete: has 32,000 of 48,000 bytes of sound." in err
    run.output.unlink()
    code, results, err = run(torn, "--strict")
    assert code == 2 and not results and "incomplete" in err


def test_a_folder_without_recordings_is_an_error(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty")[2].startswith("There are no recordings in the folder")


def test_files_are_found_once_and_in_order(clips):
    found = inputs.listed([clips / "long.wav", clips, "none.wav"])
    assert [Path(file).name for file in found] == [
        "long.wav", "a.wav", "broken.wav", "gone.wav", "b.WAV", "silent.wav", "none.wav"
    ]  # fmt: skip


def _cut(waveform: np.ndarray) -> list[audio.Segment]:
    return audio.segments(waveform, 10.0)


def test_reading_ahead_is_bounded(clips):
    asked = []

    def files():
        for number in range(100):
            asked.append(number)
            yield str(clips / "a.wav")

    reading = bulk._read_ahead(files(), _cut, max_seconds=60.0)
    next(reading)
    assert len(asked) == bulk.READ_AHEAD + 1
    reading.close()


def test_only_the_segments_of_a_long_recording_stay_in_memory(clips):
    recording = bulk._read(str(clips / "a.wav"), _cut, max_seconds=60.0)
    assert recording.waveforms and all(waveform.base is None for waveform in recording.waveforms)


def test_files_without_speech_are_grouped_in_pools_too(clips):
    pools = bulk._pools([str(clips / "silent.wav")] * 7, _cut, segments=3, max_seconds=60.0)
    assert [len(pool) for pool in pools] == [3, 3, 1]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    with outputs.ResultsFile(tmp_path / "out.jsonl", "tiny", ("rl",)) as results:
        full = io.BufferedWriter(Full())
        monkeypatch.setattr(results, "_file", full)
        with pytest.raises(outputs.BulkError, match="out.jsonl cannot be written: No space left"):
            results.add(inputs.Entry("a.wav", "a.wav", Path("a.wav")), "tiny", {"rl": Transcript((), 1.0, 0.0)})
        full.raw.free = True


class Full(io.RawIOBase):
    free = False

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        if self.free:
            return len(data)
        raise OSError(28, "No space left on device")


def test_segments_of_many_files_share_a_batch(engine, clips, monkeypatch):
    sizes = []
    run = engine.scheduler.run

    def counted(request, *arguments):
        sizes.append(len(request.windows))
        return run(request, *arguments)

    monkeypatch.setattr(engine.scheduler, "run", counted)
    results = dict(bulk.transcribe(engine, inputs.listed([clips]), ("rl",)))
    assert len(results) == 6 and sizes == [1 + 1 + 3], "two short clips and the segments of the long one"
