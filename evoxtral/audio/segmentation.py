"""Detect sound in a waveform, and cut it into segments that fit a model's window."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from evoxtral.audio import activity, babble
from evoxtral.audio.reading import duration
from evoxtral.audio.tracks import SAMPLE_RATE

# Times are counted in frames of 1/64 s: exact in binary, so no sum or difference overshoots a window.
FRAMES_PER_SECOND = 64
FRAME = SAMPLE_RATE // FRAMES_PER_SECOND  # 250 samples
MIN_SOUND_LEVEL = -60.0  # dBFS; nothing below is heard
MAX_NOISE_LEVEL = -45.0  # dBFS; nothing above is taken for noise, however steady
ABOVE_NOISE = 6.0  # dB from the recording's noise floor to sound; steady noise moves by 2 dB or less
MIN_SOUND = round(0.06 * FRAMES_PER_SECOND)  # frames; shorter sounds are clicks, such as that of a mouse button
WORD_GAP = round(0.15 * FRAMES_PER_SECOND)  # frames; shorter silences are the t, p and k inside words
PAUSE = round(0.85 * FRAMES_PER_SECOND)  # frames; a longer silence is a [pause], which means something
MAX_PAUSE = 3.0  # s; a longer silence stands between utterances
MARGIN = round(1.5 * FRAMES_PER_SECOND)  # frames of a short silence kept around sound: a [pause] there is heard
SHORT_MARGIN = round(0.3 * FRAMES_PER_SECOND)  # frames kept of a silence between utterances: no [pause] is heard
LIKELY_SPEECH, SURE_SPEECH = 0.3, 0.5  # probabilities; a stretch of speech reaches the second, as its authors advise
MIN_SPEECH = 0.2  # s; the detector takes the onset of a tone for speech, for a shorter time
GROUP_GAP = FRAMES_PER_SECOND  # frames of silence at most between sounds that are judged together
DETECTOR_LEAD = round(0.25 * FRAMES_PER_SECOND)  # frames that the detector reads before a sound
WORD_EDGE = round(0.3 * FRAMES_PER_SECOND)  # frames around speech that belong to it, in noise that is as loud
AROUND_SPEECH = 2 * FRAMES_PER_SECOND  # frames around speech in which every sound is kept
MIN_VOCAL, MAX_VOCAL = round(0.16 * FRAMES_PER_SECOND), 6 * FRAMES_PER_SECOND  # frames of sounds without words
MIN_MOVEMENT = 1.0  # dB, deviation of such a sound's level; tones and machines have less
STANDS_OUT = 12.0  # dB of such a sound's loudest tenth of a second above the second before it, and after it
MIN_VOICE = 0.37  # of a sound's power above 60 Hz, what a vocal one has at least above 200 Hz; rumble has up to 0.32
SMOOTH = 7  # frames (0.1 s) over which a level is averaged: two tones beat faster
CROWD_BLOCK = 8 * FRAMES_PER_SECOND  # frames that are judged together to be a crowd or not
MIN_CROWD = 4 * FRAMES_PER_SECOND  # frames; shorter stretches are never taken for a crowd
LEAD = round(0.15 * FRAMES_PER_SECOND)  # frames kept between a cut and the next sound: onsets are soft


@dataclass(frozen=True)
class Segment:
    """A stretch of a waveform, in seconds from its beginning.

    sounds: the stretches of it that are not silent, on the same clock.
    """

    start: float
    end: float
    sounds: tuple[tuple[float, float], ...] = field(default=(), compare=False, repr=False)

    def of(self, waveform: np.ndarray) -> np.ndarray:
        """The samples of this segment: a view of `waveform` (T,)."""
        return waveform[round(self.start * SAMPLE_RATE) : round(self.end * SAMPLE_RATE)]


def is_silent(waveform: np.ndarray, any_sound: bool = False) -> bool:
    """Whether a waveform (T,) holds neither speech nor a sound that a person may have made, such as a sigh.

    any_sound: whether all sounds count, but for steady noise up to -45 dBFS, an offset and clicks.
    """
    return len(_sounds(waveform, _power(waveform), any_sound)) == 0


def frame_levels(waveform: np.ndarray) -> np.ndarray:
    """Level in dBFS of each frame of a waveform (T,), its constant part taken out: (ceil(T / 250),)."""
    return 10 * np.log10(np.maximum(_power(waveform), 1e-12))


def segments(
    waveform: np.ndarray, window_seconds: float, max_pause: float = MAX_PAUSE, any_sound: bool = False
) -> list[Segment]:
    """Stretches of a waveform (T,) with all of its speech: ordered, apart, each at most `window_seconds` long.

    Sounds beside speech count, and so do those that may be a laugh or a sigh; noise, tones and music do not, unless
    `any_sound` is set.

    - What fits one window is one segment, pauses included. Silence of more than `max_pause` s always divides.
    - Silence at an edge is trimmed to 1.5 s, or less where the window has no room; to 0.3 s where it is longer than
      `max_pause`, so that a cut is not heard as a [pause]. Only silence gives [].
    - What does not fit is cut in the second half of the window: in the widest gap between words; else at an
      end of a [pause] (silence over 0.85 s), which so stays whole in the segment before or after; else,
      where nothing is silent, at the quietest point.

    Linear in T. Raises ValueError for a window of less than a second.
    """
    window = int(window_seconds * FRAMES_PER_SECOND)
    if window < FRAMES_PER_SECOND:
        raise ValueError(f"a window of {window_seconds} s is shorter than one second")
    power = _power(waveform)
    sounds = _sounds(waveform, power, any_sound)
    if len(sounds) == 0:
        return []
    divides = np.flatnonzero(sounds[1:, 0] - sounds[:-1, 1] > max_pause * FRAMES_PER_SECOND) + 1
    stretches = np.split(sounds, divides)
    begins = [0, *(int(stretch[-1, 1]) for stretch in stretches[:-1])]  # of the silence before each
    ends = [*(int(stretch[0, 0]) for stretch in stretches[1:]), len(power)]  # of that after it
    spans = []
    for stretch, begin, end in zip(stretches, begins, ends, strict=True):
        first, last = int(stretch[0, 0]), int(stretch[-1, 1])
        if first - begin > max_pause * FRAMES_PER_SECOND:
            begin = first - SHORT_MARGIN
        if end - last > max_pause * FRAMES_PER_SECOND:
            end = last + SHORT_MARGIN
        spans += _spans(stretch, power, window, begin, end)
    seconds = duration(waveform)  # the last frame may be only a part of one
    return [
        Segment(start / FRAMES_PER_SECOND, min(end / FRAMES_PER_SECOND, seconds), _within(sounds, start, end))
        for start, end in spans
    ]


def _within(sounds: np.ndarray, start: int, end: int) -> tuple[tuple[float, float], ...]:
    """Of sounds (N, 2) in frames, what lies in [start, end): in seconds."""
    first = np.searchsorted(sounds[:, 1], start, side="right")
    inside = sounds[first : np.searchsorted(sounds[:, 0], end)]
    return tuple(map(tuple, (inside.clip(start, end) / FRAMES_PER_SECOND).tolist()))


def _spans(sounds: np.ndarray, power: np.ndarray, window: int, earliest: int, latest: int) -> Iterator[tuple[int, int]]:
    """Divide one stretch of sounds (N, 2) into spans [start, end) of at most `window` frames with margins, which lie
    in [earliest, latest). None reaches back across a cut."""
    margin = min(MARGIN, window // 4)
    first, last = int(sounds[0, 0]), int(sounds[-1, 1])
    while last - first > window:
        cut = _cut(sounds, power, first + window // 2, first + window - LEAD)
        before = int(sounds[np.searchsorted(sounds[:, 0], cut) - 1, 1])  # end of the last begun before
        yield _with_margin(first, min(before, cut), earliest, cut, window, margin)
        after = int(sounds[np.searchsorted(sounds[:, 1], cut, side="right"), 0])  # start of the next, or same
        first, earliest = max(after - margin, cut), cut
        if last - after <= window:  # a margin alone does not cause another cut
            first = max(first, last - window)
    yield _with_margin(first, last, earliest, latest, window, margin)


def _with_margin(first: int, last: int, earliest: int, latest: int, window: int, margin: int) -> tuple[int, int]:
    """Widen [first, last) by up to `margin` frames a side, inside [earliest, latest) and `window` frames."""
    spare = window - (last - first)
    after = min(margin, latest - last, max(spare - LEAD, spare // 2))
    before = min(margin, first - earliest, spare - after)
    return first - before, last + after


def _cut(sounds: np.ndarray, power: np.ndarray, low: int, high: int) -> int:
    """The best frame for a cut in [low, high], by the order of preference given in `segments`."""
    from_low = max(np.searchsorted(sounds[:, 1], low) - 1, 0)
    near = sounds[from_low : np.searchsorted(sounds[:, 0], high, side="right") + 1]
    gaps = []
    for begin, end in zip(near[:-1, 1].tolist(), near[1:, 0].tolist(), strict=True):
        width = end - begin
        lead = width // 2 if width <= PAUSE else min(LEAD, width - PAUSE)
        fits = end - lead <= high  # otherwise the whole gap goes to the segment after the cut
        cut = end - lead if fits else min(max(begin + lead, low), high)
        if max(begin, low) <= cut:
            gaps.append((width <= PAUSE, width, cut))
    if gaps:
        return max(gaps)[-1]
    sound_end = int(sounds[np.searchsorted(sounds[:, 1], high, side="right"), 1])
    high = max(low, min(high, sound_end - MIN_SOUND))  # what is left must still count as sound
    around = power[low - WORD_GAP // 2 : high + WORD_GAP // 2]
    smooth = np.convolve(around, np.ones(WORD_GAP), mode="valid")
    return low + len(smooth) - 1 - int(np.argmin(smooth[::-1]))  # the last of equals: fewer segments


def _power(waveform: np.ndarray) -> np.ndarray:
    """Power of each frame of a waveform (T,), its constant part taken out: (ceil(T / 250),), full scale 1."""
    whole = len(waveform) // FRAME * FRAME
    frames = waveform[:whole].reshape(-1, FRAME)
    power = np.einsum("ij,ij->i", frames, frames) / FRAME - frames.mean(axis=1) ** 2
    return np.append(power, waveform[whole:].var()) if whole < len(waveform) else power


def _sounds(waveform: np.ndarray, power: np.ndarray, any_sound: bool) -> np.ndarray:
    """Stretches of speech, and of sounds that a person may have made, (N, 2) frames [start, end): WORD_GAP or more
    apart, MIN_SOUND or more long.

    Speech is what the voice activity detector takes for it. A sound around speech counts, and one by itself that
    `_may_be_vocal`: the detector knows no sighs, gasps and coughs.
    """
    if len(power) == 0:
        return np.empty((0, 2), dtype=int)
    level = 10 * np.log10(np.maximum(power, 1e-12))  # dBFS
    loud = max(np.percentile(level, 10) + ABOVE_NOISE, MIN_SOUND_LEVEL)
    active = level > min(loud, MAX_NOISE_LEVEL)
    runs = _joined(active)
    if any_sound or len(runs) == 0:
        return runs
    speech = _speech(waveform, runs, power)
    if loud > MAX_NOISE_LEVEL:  # in such noise only what rises above it, or is in words
        runs = _joined((level > loud) | active & _near(speech, WORD_EDGE))
    if len(runs) == 0:
        return runs
    around = _near(speech, AROUND_SPEECH)
    smooth = np.convolve(np.pad(level, SMOOTH // 2, mode="edge"), np.full(SMOOTH, 1 / SMOOTH), mode="valid")
    kept = np.zeros(len(power), bool)
    for group in _together(runs):
        start, end = int(group[0, 0]), int(group[-1, 1])
        vocal = end - start <= MAX_VOCAL and not around[start:end].any() and _stands_out(smooth, start, end)
        for first, last in group.tolist():
            if vocal:
                own = waveform[first * FRAME : last * FRAME]
                kept[first:last] = _may_be_vocal(smooth[first:last]) and not _is_rumble(own)
            else:
                kept[first:last] = around[first:last]
    return _joined(kept)


def _together(runs: np.ndarray) -> list[np.ndarray]:
    """Runs (N, 2) in groups of near ones."""
    return np.split(runs, np.flatnonzero(runs[1:, 0] - runs[:-1, 1] > GROUP_GAP) + 1)


def _joined(active: np.ndarray) -> np.ndarray:
    """Stretches (N, 2) of frames that are active (frames,): shorter gaps are closed, shorter stretches are left out."""
    runs = np.flatnonzero(np.diff(active, prepend=False, append=False)).reshape(-1, 2)
    apart = runs[1:, 0] - runs[:-1, 1] >= WORD_GAP
    starts, ends = np.insert(apart, 0, True)[: len(runs)], np.append(apart, True)[: len(runs)]
    sounds = np.stack([runs[starts, 0], runs[ends, 1]], axis=1)
    return sounds[sounds[:, 1] - sounds[:, 0] >= MIN_SOUND]


def _speech(waveform: np.ndarray, runs: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Which frames hold speech, (frames,): the detector reads the runs (N, 2) of sound, near ones together. The babble
    of a crowd, which it takes for speech, is none."""
    frames = len(power)
    ends = [
        (max(0, int(group[0, 0]) - DETECTOR_LEAD), min(frames, int(group[-1, 1]) + DETECTOR_LEAD))
        for group in _together(runs)
    ]
    found = activity.of_each([waveform[start * FRAME : end * FRAME] for start, end in ends])
    speech = np.zeros(frames, bool)
    for (start, end), probabilities in zip(ends, found, strict=True):
        centres = (np.arange(end - start) * FRAME + FRAME // 2) // activity.HOP
        speech[start:end] = _detected(probabilities)[np.minimum(centres, len(probabilities) - 1)]
        blocks = max(1, (end - start) // CROWD_BLOCK)
        edges = np.linspace(start, end, blocks + 1).astype(int).tolist()
        for first, last in zip(edges[:-1], edges[1:], strict=True):
            if last - first >= MIN_CROWD and speech[first:last].any():
                block = waveform[first * FRAME : last * FRAME]
                speech[first:last] &= not babble.is_babble(block, power[first:last])
    return speech


def _detected(probabilities: np.ndarray) -> np.ndarray:
    """Which of the detector's frames hold speech: stretches of MIN_SPEECH above one threshold that reach the higher."""
    above = probabilities >= LIKELY_SPEECH
    runs = np.flatnonzero(np.diff(above, prepend=False, append=False)).reshape(-1, 2)
    for start, end in runs.tolist():
        long_enough = (end - start) * activity.HOP >= MIN_SPEECH * SAMPLE_RATE
        above[start:end] = long_enough and probabilities[start:end].max() >= SURE_SPEECH
    return above


def _near(frames: np.ndarray, distance: int) -> np.ndarray:
    """Which frames have one that is set at most `distance` before or after them."""
    count = np.cumsum(np.pad(frames, (distance + 1, distance)))
    return count[2 * distance + 1 :] > count[: len(frames)]


def _stands_out(level: np.ndarray, start: int, end: int) -> bool:
    """Whether sounds [start, end) of levels (frames,) rise from what is before and behind them: noise only swells."""
    beside = [level[max(0, start - GROUP_GAP) : start], level[end : end + GROUP_GAP]]
    background = max((np.median(part) for part in beside if len(part)), default=-np.inf)
    return level[start:end].max() >= background + STANDS_OUT


def _may_be_vocal(level: np.ndarray) -> bool:
    """Whether a sound by itself, its smoothed levels (frames,) in dBFS, may be a laugh, a sigh, a gasp or a cough: its
    loudness moves as a breath's does. Tones of telephones and machines are steady."""
    edge = max(len(level) // 8, SMOOTH // 2)  # where it begins and ends, its level moves in any case
    return len(level) >= MIN_VOCAL and float(np.std(level[edge : len(level) - edge])) >= MIN_MOVEMENT


def _is_rumble(waveform: np.ndarray) -> bool:
    """Whether a sound (T,) lies as low as wind, traffic or a handled microphone do."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    bins = len(waveform) / SAMPLE_RATE  # of one Hz
    low, high = round(60 * bins), round(200 * bins)
    return bool(power[high:].sum() < MIN_VOICE * power[low:].sum())
