"""Figures and short sentences, as several parts of the page write them."""

from collections.abc import Sequence


def percent(share: float) -> str:
    """0.9345 → "93 %" with a no-break space; only 1 gives "100 %"."""
    return f"{int(share * 100) if share > 0.99 else round(share * 100)}\u00a0%"


def counted(number: int, thing: str) -> str:
    """2, "tag" → "2 tags"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def enumerated(things: Sequence[str]) -> str:
    """ "Base, SFT and RL"."""
    *others, last = things
    return f"{', '.join(others)} and {last}" if others else last


def clock(seconds: float) -> str:
    """75.2 → "1:15"."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def clip_length(seconds: float, heard: Sequence[float] = ()) -> str:
    """The duration of a clip, before decoding.  heard: durations of its segments in s, where they are known."""
    length = f"{seconds:.1f} s of audio" if seconds < 60 else f"{clock(seconds)} min of audio"
    parts = f" in {len(heard)} parts" if len(heard) > 1 else ""
    silent = seconds - sum(heard) if heard else 0.0
    return length + parts + (f", {silent:.0f} s of it silent." if silent >= 1 else ".")


def incomplete(how: str) -> str:
    """The sentence about a recording that is not whole.  how: such as "ends after 12.4 of 30.0 s"."""
    return f"The recording is incomplete: it {how}."
