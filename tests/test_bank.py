"""The bank: plain sentences of natural voices, performed as tagged scripts; recordings of people; other sounds."""

import json
import random

import numpy as np
import pytest

from evoxtral import speech, tags
from evoxtral.audio import SAMPLE_RATE
from evoxtral.bench import recordings
from evoxtral.errors import RecipeError
from evoxtral.speech import deliveries
from training import bank, dataset, evaluate_people, nonspeech, splice, tagged_texts
from training.bank import Bank, BankConfig
from training.dataset import DataConfig

SENTENCES = ("The old bridge shook.", "Nobody heard the rain begin.", "Leave your boots here!", "Was it a red kite?")
needs_deliveries = pytest.mark.skipif(deliveries.missing() is not None, reason=deliveries.missing() or "installed")


@pytest.fixture
def stocked(tmp_path, monkeypatch) -> str:
    """A bank of four sentences, in the embedded voice under a natural one's name: its name."""
    monkeypatch.setenv("EVOXTRAL_VOICES", str(tmp_path))
    bank.folder().mkdir()
    rows, waveforms = [], []
    for k, text in enumerate(SENTENCES):
        spoken = speech.speak(text, "en-us+f2", k)
        waveforms.append((spoken.waveform * 32767).astype(np.int16))
        rows.append(
            {
                "words": text.split(), "stressable": [1], "moods": ["sad"], "voice": "natural:bella", "female": True,
                "times": [[word.start, word.end] for word in spoken.words], "accent": "en-us", "n": len(waveforms[-1]),
                "domain": "home",
            }
        )  # fmt: skip
    name = "four"
    np.save(bank.folder() / f"{name}-natural-0000.npy", np.concatenate(waveforms))
    manifest = bank.folder() / f"{name}-natural-0000.jsonl"
    manifest.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return name


def test_a_bank_returns_its_sentences(stocked):
    found = Bank.load(stocked)
    assert [item.sentence.plain for item in found.items] == list(SENTENCES)
    assert set(found.by_voice) == {"natural:bella"}
    again = speech.speak(SENTENCES[2], "en-us+f2", 2).waveform
    assert np.abs(found.items[2].waveform() - again).max() < 1e-4


@needs_deliveries
@pytest.mark.parametrize("kind", tagged_texts.TAG_RANGE)
def test_a_script_of_a_bank_is_performed_with_its_tags_and_words(stocked, kind):
    found = Bank.load(stocked)
    script, items = found.script(random.Random(kind), kind, 7.5, 1.5)
    low, high = tagged_texts.TAG_RANGE[kind]
    assert low <= len(tags.names(script.text)) <= high
    words = [word for item in items for word in item.sentence.words]
    assert tags.plain(script.text).lower().split() == " ".join(words).lower().split()
    waveform = found.perform(script, items, 5, varied=True)
    assert np.array_equal(waveform, found.perform(script, items, 5, varied=True))
    assert len(waveform) / SAMPLE_RATE > 0.5 * sum(item.seconds for item in items) and np.abs(waveform).max() > 0.1


@needs_deliveries
def test_clips_of_a_bank_become_shards_like_all_others(stocked, tmp_path):
    config = DataConfig(clips=3, natural=1.0, banks=(stocked,), microphone=1.0)
    built = dataset.build(tmp_path / "data", "train", config, workers=1)
    assert len(built) == 3 and {clip.voice for clip in built.clips} == {"natural:bella"}
    assert all(built.mel(k).shape == (clip.frames, 128) for k, clip in enumerate(built.clips))


def test_a_bank_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOXTRAL_VOICES", str(tmp_path))
    with pytest.raises(RecipeError, match="There is no bank nothing"):
        dataset._bank(("nothing",))


@pytest.mark.parametrize(
    "voice, held_out",
    [
        ("natural:sky", True),
        ("natural:heart@0.7+puck@0.3", True),
        ("natural:heart/lily", True),
        ("natural:heart/emma", False),
        ("piper:joe", False),
        ("en-us+f4", True),
        ("en-us+f3", False),
    ],
)
def test_held_out_voices_are_known_also_in_mixtures(voice, held_out):
    assert dataset.is_held_out(voice) is held_out


def test_training_draws_no_held_out_voice_and_the_test_bank_no_other():
    rng = random.Random(0)
    drawn = {bank._voice(rng, "natural", k, held_out=False) for k in range(500)}
    assert len(drawn) > 200 and not any(map(dataset.is_held_out, drawn))
    assert {bank._voice(rng, "natural", k, held_out=True) for k in range(12)} == {f"natural:{n}" for n in bank.HELD_OUT}


@pytest.mark.parametrize(
    "voice, accent",
    [
        ("natural:heart", "en-us"),
        ("natural:emma@0.5+heart@0.5", "en-gb-x-rp"),
        ("piper:joe", "en-us"),
        ("en-gb-scotland+m1", "en-gb-scotland"),
    ],
)
def test_an_accent_is_that_of_the_first_voice(voice, accent):
    assert bank.accent(voice) == accent


def test_ordinary_sentences_are_spoken_in_pairs_and_divided():
    _, sentences = bank._utterance(random.Random(0), 3, BankConfig(split="ordinary"))
    assert sentences == list(bank.ordinary()[6:8])
    count = sum(len(s.words) for s in sentences)
    times = np.array([[k + 0.1, k + 0.8] for k in range(count)], float)
    pieces = list(bank._cut(sentences, np.zeros(count * SAMPLE_RATE), times))
    assert [len(spans) for _, _, spans in pieces] == [len(s.words) for s in sentences]
    assert all(0 <= spans[0, 0] <= 0.1 and spans[-1, 1] <= len(piece) / SAMPLE_RATE for _, piece, spans in pieces)


def test_recordings_that_are_not_installed_name_their_package(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "PROMPTS", tmp_path / "nothing")
    with pytest.raises(RecipeError, match="apt install asterisk-core-sounds-en-g722"):
        recordings.prompts()


def test_lines_of_a_dialogue_file_are_named_as_their_clips():
    def string(number: int, text: bytes) -> bytes:
        body = b"\0\0" + number.to_bytes(2, "big") + bytes([len(text)]) + text
        return body + b"\0" * (-(len(body)) % 4)

    head = b"".join(n.to_bytes(2, "big") for n in (0, 0, 7, 1, 2))
    person = 32 + len(string(10, b"Hi there."))
    data = head.ljust(22, b"\0") + person.to_bytes(2, "big") + b"\0" * 8
    data += string(10, b"Hi there.") + string(30, b"You!*03Come here...*02") + string(255, b"Go on.")
    found = list(recordings._lines(b"\0" * 20 + data))
    assert found == [("07001EP1", "You!"), ("07001EP2", "Come here"), ("0700FFP1", "Go on."), ("07000AJ1", "Hi there.")]


@pytest.mark.parametrize("kind", nonspeech.KINDS)
def test_sounds_without_speech_have_the_requested_duration_and_differ(kind):
    make = nonspeech.KINDS[kind]
    one, again, other = (make(np.random.default_rng(seed), 2.0) for seed in (1, 1, 2))
    assert len(one) == 2 * SAMPLE_RATE and np.isfinite(one).all() and np.abs(one).max() > 0
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_words_are_normalised_in_the_same_way_for_every_system():
    assert evaluate_people.normalised("[sighs] Don’t STOP, now...") == "don't stop now"
    assert evaluate_people.word_errors([("We went.", "we [laughs] WENT"), ("", "x")]) == 0
    assert evaluate_people.word_errors([("", "x")]) is None


def measured(name: str, reference: str, text: str) -> dict:
    variant = {"text": text, "tokens": [], "cut": False}
    variants = {"base": variant | {"text": tags.plain(text)}, "rl": variant}
    return {"set": name, "id": "1", "reference": reference, "seconds": 6.0, "variants": variants}


def test_the_table_has_a_row_for_each_set():
    rows = {
        "natural": [
            measured("natural", "[sad] We went.", "[sad] We went."),
            measured("natural", "No.", "[laughs] No."),
        ],
        "prompts": [measured("prompts", "Press one now please.", "press [gasps] one now. FLEAS")],
        "sounds": [
            measured("sounds", "So [laughs] well.", "So [chuckles] well."),
            measured("sounds", "A [gasps] b.", "a b"),
        ],
        "nonspeech": [measured("nonspeech", "", ""), measured("nonspeech", "", "[sighs] oh")],
    }
    rows["natural"][0]["whisper"] = "Now when."
    found = {"sets": {name: evaluate_people.row_of(name, some, ["base", "rl"]) for name, some in rows.items()}}
    sets = found["sets"]
    assert sets["natural"]["wer"]["rl"] == 0 and sets["natural"]["tag_f1"]["rl"] == 0.5
    assert sets["prompts"]["wer"]["rl"] == 0.25 and sets["prompts"]["invented_a_minute"] == {"base": 0, "rl": 10}
    assert sets["sounds"]["recall"] == {"base": 0, "rl": 0.5} and sets["nonspeech"]["silent"]["rl"] == 1
    told = evaluate_people.told(found | {"date": "2026-11-28", "commit": "abc"})
    assert "| a person's prompts (Asterisk) | 1 | 25.0 | 25.0 | – | 10.0 a minute | – |" in told[2]
    assert "| 0.0 | 0.0 | 50.0 | 50.0 % | 0.0, 100.0 (n = 1) |" in told[2] and "(recall 50 %)" in told[2]


def test_what_was_measured_before_an_interruption_is_not_transcribed_again(engine, tmp_path):
    config, path = evaluate_people.PeopleConfig(count=3), tmp_path / evaluate_people.PREDICTIONS
    first = evaluate_people.measure(engine, tmp_path, ["embedded"], config)["sets"]["embedded"]
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = json.loads(lines[0]) | {"seconds": 61.0}
    path.write_text(json.dumps(kept) + "\n" + lines[1] + lines[2][:40], encoding="utf-8")
    second = evaluate_people.measure(engine, tmp_path, ["embedded"], config)["sets"]["embedded"]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [json.loads(line)["id"] for line in lines]
    assert rows[0] == kept and second["n"] == first["n"] == 3 and second["minutes"] > first["minutes"]


def test_spliced_phrases_are_heard_as_they_are_written(stocked):
    """The words of the text are words of the bank, and each phrase lasts what it lasts there."""
    items = Bank.load(stocked).of_like_voices(random.Random(0))
    said = {word.strip(".!?").lower() for sentence in SENTENCES for word in sentence.split()}
    texts = set()
    for seed in range(20):
        text, waveform = splice.spliced(random.Random(seed), items, 4.0)
        words = text.split()
        assert {word.strip(".!?").lower() for word in words} <= said
        assert text[0].isupper() and text[-1] in ".!?" and waveform.dtype == np.float32
        rate = len(words) / (len(waveform) / SAMPLE_RATE)
        assert 1.0 < rate < 8.0 and len(waveform) / SAMPLE_RATE < 4.6, (text, rate)
        texts.add(text)
    assert len(texts) >= 18 and not texts & set(SENTENCES)


def test_a_phrase_is_cut_from_its_own_place(stocked):
    """A phrase of the whole sentence is that sentence; two halves meet without a jump."""
    item = Bank.load(stocked).items[1]
    whole = splice._cut(item, 0, 5)
    first, second = splice._cut(item, 0, 2), splice._cut(item, 2, 5)
    assert np.array_equal(np.concatenate([first, second]), whole)
    joined = splice._joined(random.Random(1), [first, second], [0.0, 0.0])
    assert len(joined) == len(whole) - splice.FADE
    assert np.abs(np.diff(joined)).max() < 1.5 * np.abs(np.diff(whole)).max()


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([(("The", "old"), True), (("Nobody", "heard."), True)], "The old nobody heard."),
        ([(("bridge", "shook."), False), (("red", "kite"), False)], "Bridge shook. Red kite."),
        ([(("in", "London,"), False), (("Adam", "was"), True), (("I'm",), True)], "In London, Adam was I'm."),
    ],
)
def test_phrases_are_written_like_sentences(parts, text):
    assert splice._written(parts) == text


def test_a_share_of_the_clips_is_spliced_and_untagged(stocked, tmp_path):
    config = DataConfig(clips=6, natural=1.0, spliced=1.0, banks=(stocked,), microphone=0.5, keep_audio=False)
    clips = dataset.build(tmp_path, "train", config, 1)
    assert [clip.slice for clip in clips.clips] == ["plain"] * 6
    assert all(clip.domain == "spliced" and not tags.names(clip.text) for clip in clips.clips)
