"""What `bulk` is given and where it writes: manifests, addresses, shards; all of it in one process, without Ray."""

import json
import re
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from conftest import tone

from evoxtral import audio, cli
from evoxtral.errors import AudioError
from evoxtral.inference import inputs, outputs, ray_bulk
from evoxtral.inference.inputs import Entry, InputError
from evoxtral.transcript import Cue, Token, Transcript

CLIP = audio.wav_bytes(tone(0.6))
ROWS = [{"id": "first", "audio": "inside/a.wav"}, {"id": 2, "audio": "b.wav"}]


def written(path: Path, rows: list[dict]) -> Path:
    """Rows as a manifest of the kind that the name says."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif path.suffix == ".csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]))
    else:
        columns = {name: [str(row[name]) for row in rows] for name in rows[0]}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["list.jsonl", "list.csv", "list.parquet"])
def test_a_manifest_of_each_kind_names_recordings_beside_it(tmp_path, name):
    found = inputs.listed([written(tmp_path / name, ROWS)])
    assert found == {
        "first": Entry("first", f"{tmp_path}/inside/a.wav", Path("inside/a.wav")),
        "2": Entry("2", f"{tmp_path}/b.wav", Path("b.wav")),
    }


def test_without_ids_the_file_is_the_id_and_each_is_there_once(tmp_path):
    rows = [{"path": "/there/a.wav"}, {"path": "s3://bucket/x/b.wav"}, {"path": "/there/a.wav"}]
    found = inputs.listed([written(tmp_path / "list.jsonl", rows)])
    assert [entry.file for entry in found.values()] == [*found] == ["/there/a.wav", "s3://bucket/x/b.wav"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b'{"audio": "a.wav"}\nhello\n', "row 2 is no JSON object"),
        ("a.jsonl", b'{"sound": "a.wav"}\n', "row 1: no recording is named"),
        ("a.jsonl", b'{"audio": 7}\n', "row 1: no recording is named"),
        ("a.jsonl", b'{"audio": "a.wav", "id": null}\n', "its id is neither text nor a number"),
        ("a.jsonl", b'{"audio": "a", "id": 1}\n{"audio": "b", "id": 1}\n', "have the same id, '1'"),
        ("a.jsonl", b"\n", "it has no rows"),
        ("a.jsonl", b"\xff\xfe", "cannot be read (UnicodeDecodeError"),
        ("a.csv", b"audio,id\na.wav\n", "row 2: its id is neither"),
        ("a.csv", b"name\na.wav\n", "row 2: no recording is named"),
        ("a.parquet", b"PAR1 no", "is no Parquet"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_one_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as refused:
        inputs.listed([tmp_path / name])
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_parquet_with_the_sound_in_it_is_refused(tmp_path):
    table = pyarrow.table({"audio": [{"bytes": CLIP, "path": "a.wav"}]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="holds recordings themselves"):
        inputs.listed([tmp_path / "a.parquet"])


@pytest.fixture
def store():
    """Recordings in a store of objects, as s3:// has them."""
    memory = fsspec.filesystem("memory")
    memory.pipe(
        {"/calls/day/a.wav": CLIP, "/calls/b.WAV": CLIP, "/calls/notes.txt": b"no sound", "/calls/bad.wav": b"x"}
    )
    memory.pipe("/lists/all.jsonl", b'{"audio": "../calls/b.WAV", "id": "b"}\n{"audio": "memory://calls/bad.wav"}\n')
    yield memory
    memory.store.clear()


def test_a_folder_at_an_address_is_listed_and_read(store):
    found = inputs.listed(["memory://calls"])
    assert [(entry.file, entry.place.as_posix()) for entry in found.values()] == [
        ("memory:///calls/b.WAV", "b.WAV"), ("memory:///calls/bad.wav", "bad.wav"),
        ("memory:///calls/day/a.wav", "day/a.wav"),
    ]  # fmt: skip
    assert inputs.source("memory:///calls/b.WAV") == CLIP
    assert [*inputs.listed(["memory://calls/b.WAV"])] == ["memory://calls/b.WAV"]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [("memory://calls/none.wav", "There is nothing at"), ("nostore://a/b.wav", "cannot be read")],
)
def test_an_address_without_a_recording_is_one_sentence(store, address, sentence, monkeypatch):
    with pytest.raises(AudioError, match=sentence):
        inputs.source(address)
    monkeypatch.setattr(inputs, "MAX_FETCHED", 100)
    with pytest.raises(AudioError, match="divide it"):
        inputs.source("memory://calls/b.WAV")


@pytest.mark.parametrize("kind", outputs.KINDS)
def test_shards_hold_each_id_once_and_are_gone_on_with(store, checkpoint, kind, capsys):
    model = str(Path(checkpoint.base).parent)
    asked = ["-q", "bulk", "memory://calls/day", "memory://lists/all.jsonl", "-o", "memory://out/run", "--shards", kind]
    for _ in range(2):
        assert cli.main([*asked, "--model", model, "--variant", "all"]) == 2
        assert capsys.readouterr().err.startswith("memory://calls/bad.wav: ")
    (shard,) = store.find("/out/run")
    if kind == "parquet":
        rows = pyarrow.parquet.read_table(store.open(shard)).to_pylist()
    else:
        rows = [json.loads(line) for line in store.cat(shard).splitlines()]
    assert sorted((row["id"], row["file"]) for row in rows) == [
        ("b", "memory://calls/b.WAV"), ("memory:///calls/day/a.wav", "memory:///calls/day/a.wav"),
    ]  # fmt: skip
    assert all(row["variants"]["rl"].keys() >= {"text", "tags", "words"} for row in rows)
    assert cli.main([*asked, "--model", model]) == 2
    assert "was written by base, sft, rl of" in capsys.readouterr().err


def test_every_shard_has_the_same_columns_and_none_is_half_written(tmp_path):
    def transcript(text: str) -> dict[str, Transcript]:
        return {"rl": Transcript((Cue(0.0, 1.0, (Token(text, 0.9),)),), 1.0, 0.1)}

    for name, text in (("a", "Hello."), ("b", "[laughs] Hello.")):
        with outputs.Shards(str(tmp_path), "parquet", "tiny", ("rl",)) as shards:
            assert name not in shards.done
            shards.add(Entry(name, f"{name}.wav", Path(name)), "tiny", transcript(text))
    files = sorted(tmp_path.iterdir())
    assert [file.name[:10] for file in files] == ["part-00001", "part-00002"], "no other file is left"
    table = pyarrow.concat_tables(map(pyarrow.parquet.read_table, files))
    rows = table["variants"].combine_chunks().field("rl").to_pylist()
    assert [[tag["name"] for tag in row["tags"]] for row in rows] == [[], ["laughs"]]


def test_a_second_run_does_not_write_to_the_same_file(tmp_path):
    asked = tmp_path / "a.jsonl", "tiny", ("rl",)
    with outputs.ResultsFile(*asked), pytest.raises(outputs.BulkError, match="Another run writes"):
        outputs.ResultsFile(*asked)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["-o", "memory://out/a.jsonl"], "add --shards"),
        (["-o", "out.jsonl", "--shards", "jsonl"], "name a folder"),
        (["-o", "out", "--shards", "jsonl", "--format", "srt"], "choose one"),
        (["-o", "out.jsonl", "--actors", "2"], "add --cluster"),
        (["-o", "out.jsonl", "--cluster", "ray://host:10001"], "client|needs Ray"),
    ],
)
def test_arguments_that_do_not_fit_are_one_sentence(store, tmp_path, monkeypatch, capsys, more, sentence):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["-q", "bulk", "memory://calls", *more, "--model", "tiny"]) == 2
    told = capsys.readouterr().err
    assert re.search(sentence, told) and told.count("\n") == 1
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("nodes", "actors", "room"),
    [
        ([{"CPU": 64.0, "GPU": 8.0}], None, (8, 1, 1)),
        ([{"CPU": 64.0, "GPU": 4.0}, {}, {"GPU": 4.0}], None, (8, 1, 1)),
        ([{"CPU": 64.0, "GPU": 8.0}], 4, (4, 1, 1)),
        ([{"CPU": 10.0}], None, (2, 5, 0)),
        ([{"CPU": 2.0}], None, (1, 2, 0)),
        ([{"CPU": 2.0}, {}, {"CPU": 2.0}], None, (2, 2, 0)),
        ([{"CPU": 6.0}] * 3, None, (3, 6, 0)),
        ([{"CPU": 2.0}], 4, (4, 1, 0)),
        ([{"CPU": 1.0}, {"CPU": 1.0}], 1, (1, 1, 0)),
        ([{"CPU": 8.0}, {"CPU": 4.0}], 3, (3, 4, 0)),
    ],
)
def test_an_engine_has_a_gpu_or_some_cores_of_one_node(nodes, actors, room):
    assert ray_bulk.room_in(nodes, actors) == ray_bulk.Room(*room)


def test_a_cluster_without_room_and_no_actors_are_refused():
    for nodes, actors in (([], None), ([{}, {"memory": 1e9}], None), ([{"CPU": 4.0}], 0)):
        with pytest.raises(ray_bulk.ClusterError):
            ray_bulk.room_in(nodes, actors)
