"""Recordings as people have them: the time line, tracks, channels, levels and containers, in small files made here."""

import io
import re
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly
from test_audio import chirp, encode, lag_and_likeness, write

from evoxtral import audio
from evoxtral.audio import SAMPLE_RATE, channels, containers, levels, tracks
from evoxtral.cli import build_parser
from evoxtral.errors import AudioError
from evoxtral.speech import speak


@pytest.fixture(scope="module")
def keys() -> np.ndarray:
    return speak("I left my keys in the car.").waveform


@pytest.fixture(scope="module")
def sister() -> np.ndarray:
    return speak("Please do not tell my sister.").waveform


def container(kind: str, *streams: list[tuple[float, np.ndarray]], codec: str = "aac", **metadata: str) -> bytes:
    """A file of several tracks, each of waveforms (T,) at 16 kHz that begin at some second."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as output:
        made = [output.add_stream(codec, rate=SAMPLE_RATE, layout="mono") for _ in streams]
        for stream in made:
            stream.metadata.update(metadata)
        for stream, pieces in zip(made, streams, strict=True):
            for begin, waveform in pieces:
                size = stream.codec_context.frame_size or 320
                for i in range(0, len(waveform) - size, size):
                    planar = np.ascontiguousarray(waveform[None, i : i + size])
                    frame = av.AudioFrame.from_ndarray(planar, format="fltp", layout="mono")
                    frame.rate, frame.pts = SAMPLE_RATE, round(begin * SAMPLE_RATE) + i
                    for piece in av.AudioResampler(stream.format.name, "mono", SAMPLE_RATE).resample(frame):
                        piece.pts = frame.pts
                        output.mux(stream.encode(piece))
            output.mux(stream.encode(None))
    return file.getvalue()


def begins(waveform: np.ndarray) -> list[float]:
    """Where stretches of sound begin, apart by a second or more."""
    return [segment.sounds[0][0] for segment in audio.segments(waveform, 30, max_pause=1.0)]


def test_a_track_of_an_unknown_kind_is_left_out_by_name_and_cannot_be_chosen(sister):
    """As an iPhone's spatial audio has one."""
    head, kind, rest = container("mp4", [(0.0, sister)], [(0.0, sister)]).rpartition(b"mp4a")
    data = head + b"apac" + rest.replace(b"esds", b"free", 1)
    (mixed,) = audio.recordings(data)
    assert mixed.notes == ("track 2 is left out: it is of a kind that cannot be decoded here",)
    with pytest.raises(AudioError, match="Track 2 of .* cannot be decoded here: choose another track"):
        audio.recordings(data, track=2)


# ---- the time line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "codec"), [("mp4", "aac"), ("mov", "aac"), ("matroska", "aac"), ("webm", "libopus"), ("ogg", "libopus")]
)
def test_leading_silence_of_a_track_is_kept(kind, codec, keys):
    late = audio.read(container(kind, [(5.0, keys)], codec=codec))
    assert late.incomplete is None
    assert begins(late.waveform)[0] - begins(keys)[0] == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "aac"), ("matroska", "aac")])
def test_a_gap_between_packets_is_silence(kind, codec, keys, sister):
    gap = audio.read(container(kind, [(0.0, keys), (6.0, sister)], codec=codec))
    assert gap.incomplete is None
    assert begins(gap.waveform) == pytest.approx([begins(keys)[0], 6.0 + begins(sister)[0]], abs=0.1)


def test_an_excerpt_of_a_broadcast_starts_at_its_first_packet(keys):
    piece = audio.read(container("mpegts", [(700.0, keys)]))
    assert piece.incomplete is None and piece.duration == pytest.approx(audio.duration(keys), abs=0.2)


def test_a_broadcast_cut_at_both_ends_is_what_is_between(keys):
    data = container("mpegts", [(700.0, np.concatenate([keys, keys, keys]))])
    third = audio.duration(keys)
    piece = audio.read(data[len(data) // 6 + 77 : -len(data) // 6 - 77])
    assert third < piece.duration < 2.5 * third
    assert lag_and_likeness(piece.waveform, keys)[1] > 0.5, "the middle one is whole"


def test_undecodable_packets_become_silence_of_their_duration():
    data = bytearray(encode("matroska", "flac", rate=SAMPLE_RATE))
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    recording = audio.read(bytes(data))
    assert lag_and_likeness(recording.waveform, chirp(SAMPLE_RATE))[0] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.8])
def test_damage_in_a_flac_file_does_not_shift_what_follows(place):
    written = write("FLAC", None, 0.1 * np.random.default_rng(0).standard_normal(6 * SAMPLE_RATE))
    begin = round(place * len(written))
    recording = audio.read(written[:begin] + written[begin + 9_000 :])
    assert np.array_equal(recording.waveform[-4_000:], audio.load(written)[-4_000:]) and recording.duration == 6.0
    assert recording.incomplete.endswith("of 6.0 s, which are silent here")


# ---- tracks ------------------------------------------------------------------------------------------------


def test_tracks_are_mixed_by_default(keys, sister):
    data = container("matroska", [(0.0, keys)], [(0.0, sister)], language="fre")
    both = audio.read(data)
    assert lag_and_likeness(both.waveform, keys)[1] > 0.5 and lag_and_likeness(both.waveform, sister)[1] > 0.5
    assert both.notes == ("2 tracks are mixed, and people speak at once in them; each can be had by itself",)
    assert [(track.number, track.language) for track in audio.listing(data)] == [(1, "fre"), (2, "fre")]
    in_turn = audio.read(container("matroska", [(0.0, keys)], [(2.5, sister)]))
    assert in_turn.notes == ("2 tracks are mixed; each can be had by itself",)
    first, second = audio.recordings(data, track="each")
    assert (first.track, second.track) == ("1 (fre)", "2 (fre)")
    assert lag_and_likeness(first.waveform, keys)[1] > 0.95 and lag_and_likeness(second.waveform, sister)[1] > 0.95
    (chosen,) = audio.recordings(data, track=2)
    assert np.array_equal(chosen.waveform, second.waveform)
    with pytest.raises(AudioError, match="no track 3: it has 2"):
        audio.recordings(data, track=3)


def test_tracks_in_which_people_speak_at_once_most_of_the_time_are_kept_apart_by_default(keys, sister):
    data = container("matroska", [(0.0, keys)], [(0.0, sister)], title="mic")
    first, second = audio.recordings(data)
    assert (first.track, second.track) == ("1 (mic)", "2 (mic)")
    assert first.notes == second.notes == ("people speak at once in 2 tracks: each is written by itself",)
    assert lag_and_likeness(first.waveform, keys)[1] > 0.95 and lag_and_likeness(second.waveform, sister)[1] > 0.95
    for asked in ({"track": "mix"}, {"channels": "mix"}):
        (mixed,) = audio.recordings(data, **asked)
        assert np.array_equal(mixed.waveform, audio.load(data))
    (in_turn,) = audio.recordings(container("matroska", [(0.0, keys)], [(1.5, sister)]))  # with a little overlap
    assert in_turn.notes[0].startswith("2 tracks are mixed")


def test_a_quiet_speaker_is_heard_beside_a_loud_one(keys, sister):
    """As where one microphone of a call is far away: 30 dB below the other."""
    gap, quiet = np.zeros(SAMPLE_RATE, np.float32), np.float32(10 ** (-30 / 20))
    first, second = np.concatenate([keys, gap, 0 * sister]), np.concatenate([0 * keys, gap, sister])
    by_track = audio.read(container("matroska", [(0.0, quiet * first)], [(0.0, second)], codec="flac"))
    by_channel = audio.read((SAMPLE_RATE, np.stack([quiet * first, second], axis=1)))
    for recording, name in ((by_track, "track 1"), (by_channel, "the left channel")):
        assert recording.notes[-1].startswith(f"{name} is much quieter than the others and raised by ")
        halves = np.split(recording.waveform[: len(first)], [len(keys) + len(gap) // 2])
        likeness, levels = zip(*map(_likeness_and_level, halves, (keys, sister)), strict=True)
        assert min(likeness) > 0.95 and 0.5 < levels[0] / levels[1] < 2


def _likeness_and_level(waveform: np.ndarray, voice: np.ndarray) -> tuple[float, float]:
    return lag_and_likeness(waveform, voice)[1], float(np.linalg.norm(waveform) / np.linalg.norm(voice))


def test_a_voice_that_another_microphone_hears_from_afar_is_not_raised(keys, sister):
    gap = np.zeros(SAMPLE_RATE, np.float32)
    near = np.concatenate([0 * keys, gap, sister])
    far = 0.03 * np.roll(near, 160) + 0.001 * np.random.default_rng(0).standard_normal(len(near))
    recording = audio.read((SAMPLE_RATE, np.stack([far, near], axis=1).astype(np.float32)))
    assert not any("raised" in note for note in recording.notes)


def test_a_silent_track_is_left_out_and_named(keys):
    recording = audio.read(container("matroska", [(0.0, np.zeros_like(keys))], [(0.0, keys)]))
    assert lag_and_likeness(recording.waveform, keys)[1] > 0.95
    assert recording.notes == ("track 1 is left out: it is silent",)


# ---- channels ----------------------------------------------------------------------------------------------


def others(samples: int) -> dict[str, np.ndarray]:
    """What stands on a channel beside the speech."""
    t = np.arange(samples) / SAMPLE_RATE
    return {
        "noise": 0.3 * np.random.default_rng(0).standard_normal(samples),
        "hum": 0.5 * np.sin(2 * np.pi * 50 * t) + 0.2 * np.sin(2 * np.pi * 150 * t),
        "time code": 0.4
        * np.sign(np.sin(2 * np.pi * np.cumsum(np.where(np.floor(t * 2400) % 3, 1200, 2400)) / 16_000)),
        "nothing": np.zeros(samples),
    }


@pytest.mark.parametrize("kind", ["noise", "hum", "time code", "nothing"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_channel_without_speech_is_left_out(kind, side, keys):
    pair = [keys, others(len(keys))[kind]]
    recording = audio.read((SAMPLE_RATE, np.stack(pair[:: 1 - 2 * side], axis=1).astype(np.float32)))
    assert lag_and_likeness(recording.waveform, keys)[1] > 0.99
    assert recording.notes == (f"the {('right', 'left')[side]} channel is left out: it carries no speech",)


def test_several_channels_without_speech_are_one_sentence(keys):
    samples = np.zeros((len(keys), 8), np.float32)
    samples[:, 2] = keys  # the centre of 7.1
    recording = audio.read((SAMPLE_RATE, samples))
    assert recording.notes == ("channels 1, 2, 4, 5, 6, 7 and 8 are left out: they carry no speech",)


def test_a_channel_of_inverted_polarity_does_not_cancel_the_other(keys):
    recording = audio.read((SAMPLE_RATE, np.stack([keys, -0.8 * keys], axis=1)))
    assert lag_and_likeness(recording.waveform, keys)[1] > 0.99
    assert np.abs(recording.waveform).max() > 0.8 * np.abs(keys).max()


def test_each_channel_can_be_read_by_itself(keys):
    samples = np.stack([keys, 0.5 * keys[::-1]], axis=1)
    left, right = audio.recordings((SAMPLE_RATE, samples), channels="each")
    assert (left.channel, right.channel) == ("left", "right")
    assert np.array_equal(left.waveform, samples[:, 0]) and np.array_equal(right.waveform, samples[:, 1])
    with pytest.raises(AudioError, match="no channel 3: it has 2"):
        audio.recordings((SAMPLE_RATE, samples), channels=3)


@pytest.mark.parametrize(("later", "noted"), [(0, True), (32_000, False)])
def test_a_mix_of_channels_says_whether_people_speak_at_once(later, noted, keys, sister):
    samples = np.zeros((len(sister) + 32_000, 2), np.float32)
    samples[: len(keys), 0], samples[later : later + len(sister), 1] = keys, sister
    notes = audio.read((SAMPLE_RATE, samples)).notes
    assert notes == ("channels are mixed in which people speak at once; each can be had by itself",) * noted


def test_channels_in_which_people_speak_at_once_most_of_the_time_are_kept_apart_by_default(keys, sister):
    samples = np.zeros((len(sister), 3), np.float32)
    samples[: len(keys), 0], samples[:, 2] = keys, sister
    first, third = audio.recordings((SAMPLE_RATE, samples))
    assert (first.channel, third.channel) == ("channel 1", "channel 3")
    assert np.array_equal(first.waveform, samples[:, 0]) and np.array_equal(third.waveform, samples[:, 2])
    assert first.notes == (
        "channel 2 is left out: it carries no speech",
        "people speak at once in 2 channels: each is written by itself",
    )


def test_one_voice_in_two_microphones_is_mixed_without_a_note(keys):
    rng = np.random.default_rng(0)
    decay = 0.2 * rng.standard_normal((8_000, 2)) * np.exp(-6.9 * np.arange(8_000) / 8_000)[:, None]  # a room of 0.5 s
    decay[0, 0], decay[160, 1] = 1, 1  # the second is 3.4 m further away
    samples = np.stack([np.convolve(keys, decay[:, i]) for i in range(2)], axis=1).astype(np.float32)
    assert abs(np.corrcoef(samples.T)[0, 1]) < channels.ALIKE
    (mixed,) = audio.recordings((SAMPLE_RATE, samples))
    assert mixed.notes == ()


def test_only_speech_has_a_high_modulation_score(keys):
    scores = channels.speech_scores([np.stack([keys, *others(len(keys)).values()], axis=1)])
    assert scores[0] > 2 * channels.MIN_SPEECH and (scores[1:] < channels.MIN_SPEECH).all()


# ---- levels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quieter", [20, 40, 60])
def test_a_very_quiet_recording_is_amplified_for_the_model(quieter, keys):
    quiet = audio.read(write("WAV", "PCM_24", keys * 10 ** (-quieter / 20)))
    levelled = audio.levelled(quiet.waveform)
    assert audio.loudness(levelled) == pytest.approx(-23 if quieter > 9 else audio.loudness(keys), abs=0.5)
    assert lag_and_likeness(levelled, keys)[1] > 0.999


def test_loudness_agrees_with_bs_1770():
    """EBU Tech 3341, test 1: a sine of 1 kHz at -23 dBFS on both channels is -23 LUFS; on one, 3 LU less."""
    t = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
    sine = 10 ** (-23 / 20) * np.sin(2 * np.pi * 1000 * t)
    assert audio.loudness(sine) == pytest.approx(-23 - 3.01, abs=0.1)
    assert audio.loudness(np.append(sine, np.zeros(60 * SAMPLE_RATE))) == pytest.approx(-26.01, abs=0.1)
    assert audio.loudness(np.zeros(SAMPLE_RATE)) == -np.inf and audio.loudness(np.zeros(0)) == -np.inf


def test_a_usual_level_is_left_unchanged(keys):
    assert audio.levelled(keys) is keys


def test_a_knock_does_not_lower_the_gain_of_speech(keys):
    knocked = 0.001 * keys
    knocked[8_000:8_010] = 1.0
    levelled = audio.levelled(audio.read((SAMPLE_RATE, knocked)).waveform)
    assert np.abs(levelled).max() <= levels.CEILING
    assert audio.loudness(levelled[9_000:]) > -35 > audio.loudness(knocked[9_000:]) + 30


def test_peaks_between_samples_are_limited_too():
    """A sine of a quarter of the rate whose samples all lie 3 dB below its peaks."""
    t = np.arange(SAMPLE_RATE)
    sine = (0.8 * np.sqrt(2) * np.sin(np.pi / 2 * t + np.pi / 4)).astype(np.float32)
    assert np.abs(sine).max() < 0.81 and levels.true_peaks(sine)[10:-10] == pytest.approx(0.8 * np.sqrt(2), rel=0.02)
    between = resample_poly(levels.limited(sine), 8, 1)[8_000:-8_000]
    assert np.abs(between).max() <= 1.02 * levels.CEILING


def test_a_constant_offset_is_removed(keys):
    recording = audio.read((SAMPLE_RATE, 0.5 * keys + np.float32(0.3)))
    assert abs(recording.waveform.mean()) < 1e-3 and lag_and_likeness(recording.waveform, keys)[1] > 0.999


# ---- containers --------------------------------------------------------------------------------------------

CONTAINERS = {
    "MPEG-TS": ("mpegts", "aac"),
    "MPEG-PS": ("mpeg", "mp2"),
    "FLV": ("flv", "aac"),
    "AC-3": ("ac3", "ac3"),
    "E-AC-3": ("eac3", "eac3"),
    "WavPack": ("wv", "wavpack"),
    "AVI": ("avi", "pcm_s16le"),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_further_containers_give_the_same_waveform(kind):
    recording = audio.read(encode(*CONTAINERS[kind]))
    lag, likeness = lag_and_likeness(recording.waveform, chirp(SAMPLE_RATE))
    assert abs(lag) < 0.06 and likeness > 0.95 and recording.incomplete is None


@pytest.mark.parametrize("kind", ["MPEG-TS", "MPEG-PS", "AC-3", "E-AC-3"])
def test_what_states_no_length_is_incomplete_where_it_stops_inside_a_packet(kind):
    data = encode(*CONTAINERS[kind])
    recording = audio.read(data[: len(data) * 6 // 10 + 31])
    assert 0.5 < recording.duration < 1.6 and recording.incomplete.startswith("breaks off in the middle")


def test_a_packet_of_ac_3_has_the_length_that_it_states():
    for rate in (32_000, 44_100, 48_000):
        for kilobits in (96, 192):
            with av.open(io.BytesIO(encode("ac3", "ac3", rate=rate, b=f"{kilobits}k"))) as file:
                packets = [bytes(packet) for packet in file.demux(audio=0) if packet.size]
            assert [containers.ac3_frame_bytes(packet) for packet in packets] == list(map(len, packets))


def test_a_recording_of_which_nothing_is_left_is_called_damaged_and_not_empty():
    with pytest.raises(AudioError, match="nothing of it can be decoded"):
        audio.read(encode(*CONTAINERS["WavPack"])[:600])


def test_inverted_channels_60_db_down_are_heard_as_one(keys):
    quiet = 10 ** (-60 / 20) * resample_poly(keys, 3, 1)
    wav = io.BytesIO()
    soundfile.write(wav, np.stack([quiet, -quiet], 1), 48_000, format="WAV", subtype="PCM_24")
    waveform = audio.levelled(audio.read(wav.getvalue()).waveform)
    assert abs(np.corrcoef(waveform[: len(keys)], keys)[0, 1]) > 0.99
    assert begins(waveform) == pytest.approx(begins(keys), abs=0.03)


@pytest.mark.parametrize("rate", [4_000, 6_000, 384_000, 768_000])
def test_the_lowest_and_the_highest_rates_are_read(rate):
    recording = audio.read(write("WAV", "FLOAT", chirp(rate), rate))
    assert lag_and_likeness(recording.waveform, chirp(SAMPLE_RATE))[1] > 0.99


def test_a_wav_after_an_id3_tag_is_read_and_trailing_bytes_are_reported():
    wav = write("WAV", None, chirp(16_000))
    id3 = b"ID3\x03\x00\x00\x00\x00\x00\x0a" + bytes(10)
    assert lag_and_likeness(audio.load(id3 + wav), chirp(SAMPLE_RATE))[1] > 0.99
    joined = audio.read(wav + wav)
    assert joined.incomplete == f"has {len(wav):,} bytes behind its end that were not read"


def test_a_wrong_riff_size_is_not_reported_as_incomplete():
    wav = write("WAV", None, chirp(16_000))
    recording = audio.read(wav[:4] + (10 * len(wav)).to_bytes(4, "little") + wav[8:])
    assert recording.incomplete is None and recording.duration == 2.0


def test_too_many_channels_are_rejected_in_one_sentence(monkeypatch):
    monkeypatch.setattr(tracks, "MAX_HELD", 0.5)
    file = io.BytesIO()
    soundfile.write(file, np.zeros((1_200 * 4_000, 2), np.int16), 4_000, format="FLAC")
    with pytest.raises(AudioError, match="too many channels"):
        audio.read(file.getvalue(), max_seconds=1_200)


def test_the_readme_names_the_limits_that_hold():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("## What can I give it") : readme.index("## Limits")]
    assert f"{tracks.MIN_RATE:,} to {tracks.MAX_RATE:,} Hz" in table
    assert f"{audio.MAX_SECONDS / 60:.0f} minutes" in table and f"{audio.MAX_MEGABYTES:.0f} MB" in table
    assert f"| formats | {', '.join(containers.FORMATS)} |" in table


def test_an_unknown_format_is_refused_with_the_readmes_list_of_formats():
    with pytest.raises(AudioError, match=f"is not a recording that can be read: use {', '.join(containers.FORMATS)}."):
        audio.read(b"%PDF-1.7 of no sound at all")


def test_the_readme_names_the_options_that_there_are():
    """What they do is tested above and in test_cli."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("## What can I give it") : readme.index("What comes out")]
    asked = re.findall(r"`(--track|--channels|--strict|--max-seconds)( N| each)?`", table)
    assert {option for option, _ in asked} == {"--track", "--channels", "--strict", "--max-seconds"}
    for option, value in asked:
        given = {" N": ["2"], " each": ["each"], "": [] if option == "--strict" else ["5"]}[value]
        assert build_parser().parse_args(["transcribe", "a.wav", option, *given]).command
    assert "`python -m evoxtral tracks FILE`" in table and build_parser().parse_args(["tracks", "a.wav"]).command
