"""What is asked of a ZeroGPU device for one clip."""

import pytest

from evoxtral.errors import AudioError
from evoxtral.transcript import Cue, Token, Transcript
from evoxtral.ui.zerogpu import MAX_SECONDS, MIN_SECONDS, WINDOW, GpuTime

QUOTA = 120.0  # s a day that a visitor without an account has
FACTOR = 1.5  # by which the platform multiplies what is asked for


def decoded(heard: float, seconds: float) -> dict[str, Transcript]:
    """Three transcripts of a clip that was silent for an hour, then not."""
    cue = Cue(3600.0, 3600.0 + heard, (Token("Hello.", 0.9),))
    return dict.fromkeys(("base", "sft", "rl"), Transcript((cue,), cue.end, seconds))


def slow(gpu_time: GpuTime, seconds: float = 20.0) -> None:
    for _ in range(10):
        gpu_time.update(decoded(30.0, seconds))


def test_the_maximum_fits_the_daily_quota():
    assert MAX_SECONDS * FACTOR <= QUOTA


def test_longer_clips_request_more_time():
    gpu_time = GpuTime()
    assert MIN_SECONDS <= gpu_time.seconds(1.0, 3) == gpu_time.seconds(WINDOW, 3) < 20
    assert gpu_time.seconds(WINDOW, 3) < gpu_time.seconds(900.0, 3) < gpu_time.seconds(1800.0, 3) < MAX_SECONDS
    assert gpu_time.seconds(900.0, 1) < gpu_time.seconds(900.0, 3)


@pytest.mark.parametrize("variants", [1, 3])
def test_half_an_hour_is_accepted_before_the_first_measurement(variants):
    gpu_time = GpuTime()
    gpu_time.check(1800.0, variants)
    assert gpu_time.max_clip(variants) >= 1800.0


def test_the_longest_clip_just_fits_the_maximum():
    gpu_time = GpuTime()
    for variants in (1, 3, 6):
        max_clip = gpu_time.max_clip(variants)
        assert gpu_time.seconds(max_clip, variants) < MAX_SECONDS == gpu_time.seconds(max_clip + WINDOW, variants)


def test_a_request_never_exceeds_the_maximum_even_if_the_device_slows_down():
    gpu_time = GpuTime()
    clip = gpu_time.max_clip(3)
    gpu_time.check(clip, 3)
    gpu_time.update(decoded(30.0, seconds=9.0))
    assert gpu_time.seconds(clip, 3) == MAX_SECONDS


def test_a_longer_clip_is_rejected_with_a_sentence_that_says_what_to_do():
    gpu_time = GpuTime()
    slow(gpu_time)
    with pytest.raises(AudioError, match=r"lasts 30\.0 minutes.* 3 variants can hear .* or ask for one variant\.$"):
        gpu_time.check(1800.0, 3)
    gpu_time.check(gpu_time.max_clip(1), 1)


def test_one_window_is_always_accepted():
    gpu_time = GpuTime()
    slow(gpu_time, seconds=600.0)
    gpu_time.check(WINDOW, 6)
    assert gpu_time.max_clip(6) == WINDOW and gpu_time.seconds(WINDOW, 6) == MAX_SECONDS
    with pytest.raises(AudioError):
        gpu_time.check(WINDOW + 0.1, 6)


def test_the_estimate_is_updated_from_whole_windows():
    gpu_time = GpuTime()
    gpu_time.update(decoded(2.0, seconds=0.5))  # a short clip costs what a window costs
    assert gpu_time.slowdown == 1.0
    before = gpu_time.seconds(1800.0, 6)
    for _ in range(10):
        gpu_time.update(decoded(30.0, seconds=0.3))
    assert gpu_time.slowdown < 0.3
    assert gpu_time.seconds(1800.0, 6) < before / 2


def test_a_slow_device_gets_longer_requests():
    gpu_time = GpuTime()
    before = gpu_time.seconds(300.0, 3)
    gpu_time.update(decoded(30.0, seconds=9.0))
    assert gpu_time.seconds(300.0, 3) > before
