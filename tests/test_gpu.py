"""What is asked of a ZeroGPU device for one clip."""

import pytest

from evoxtral.errors import AudioError
from evoxtral.transcript import Cue, Token, Transcript
from evoxtral.ui.gpu import CEILING, FLOOR, WINDOW, Pace

QUOTA = 120.0  # s a day that a visitor without an account has
FACTOR = 1.5  # by which the platform multiplies what is asked for


def decoded(heard: float, seconds: float) -> dict[str, Transcript]:
    """Three transcripts of a clip that was silent for an hour, then not."""
    cue = Cue(3600.0, 3600.0 + heard, (Token("Hello.", 0.9),))
    return dict.fromkeys(("base", "sft", "rl"), Transcript((cue,), cue.end, seconds))


def slow(pace: Pace, seconds: float = 20.0) -> None:
    for _ in range(10):
        pace.learn(decoded(30.0, seconds))


def test_no_request_asks_for_more_than_a_visitor_has():
    assert CEILING * FACTOR <= QUOTA


def test_a_short_clip_asks_for_little_and_a_longer_one_for_more():
    pace = Pace()
    assert FLOOR <= pace.seconds(1.0, 3) == pace.seconds(WINDOW, 3) < 20
    assert pace.seconds(WINDOW, 3) < pace.seconds(900.0, 3) < pace.seconds(1800.0, 3) < CEILING
    assert pace.seconds(900.0, 1) < pace.seconds(900.0, 3)


@pytest.mark.parametrize("variants", [1, 3])
def test_half_an_hour_is_accepted_before_anything_was_measured(variants):
    pace = Pace()
    pace.check(1800.0, variants)
    assert pace.longest(variants) >= 1800.0


def test_the_longest_clip_just_fits_the_ceiling():
    pace = Pace()
    for variants in (1, 3, 6):
        longest = pace.longest(variants)
        assert pace.seconds(longest, variants) < CEILING == pace.seconds(longest + WINDOW, variants)


def test_no_request_asks_for_more_than_the_ceiling_even_if_the_device_was_slow_since_it_was_checked():
    pace = Pace()
    clip = pace.longest(3)
    pace.check(clip, 3)
    pace.learn(decoded(30.0, seconds=9.0))
    assert pace.seconds(clip, 3) == CEILING


def test_a_clip_beyond_it_is_refused_in_one_sentence_that_says_what_to_do():
    pace = Pace()
    slow(pace)
    with pytest.raises(AudioError, match=r"lasts 30\.0 minutes.* 3 variants can hear .* or ask for one variant\.$"):
        pace.check(1800.0, 3)
    pace.check(pace.longest(1), 1)


def test_a_window_is_never_too_long():
    pace = Pace()
    slow(pace, seconds=600.0)
    pace.check(WINDOW, 6)
    assert pace.longest(6) == WINDOW and pace.seconds(WINDOW, 6) == CEILING
    with pytest.raises(AudioError):
        pace.check(WINDOW + 0.1, 6)


def test_it_learns_from_whole_windows_how_fast_the_device_is():
    pace = Pace()
    pace.learn(decoded(2.0, seconds=0.5))  # a short clip costs what a window costs
    assert pace.slowness == 1.0
    before = pace.seconds(1800.0, 6)
    for _ in range(10):
        pace.learn(decoded(30.0, seconds=0.3))
    assert pace.slowness < 0.3
    assert pace.seconds(1800.0, 6) < before / 2


def test_a_slow_device_is_asked_for_longer():
    pace = Pace()
    before = pace.seconds(300.0, 3)
    pace.learn(decoded(30.0, seconds=9.0))
    assert pace.seconds(300.0, 3) > before
