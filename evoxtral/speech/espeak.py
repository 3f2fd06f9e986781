"""espeak-ng from its pip wheel, through ctypes: text in, wave and word times out. No system package.

The library keeps one global synthesiser per process, so calls are serialised by a lock.
Reference: espeak-ng's speak_lib.h (API revision 12, espeak-ng 1.52).
"""

import ctypes
import threading
from dataclasses import dataclass
from functools import cache
from xml.sax.saxutils import escape

import numpy as np

from evoxtral.errors import SpeechError

AUDIO_OUTPUT_SYNCHRONOUS = 2
CHARS_UTF8, SSML, ENDPAUSE = 0x1, 0x10, 0x1000
RATE, VOLUME, PITCH, RANGE, WORD_GAP = 1, 2, 3, 4, 7  # espeak_PARAMETER
EVENT_LIST_END, EVENT_WORD = 0, 1


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # characters, from 1, counted in the text handed over
        ("length", ctypes.c_int),  # characters
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_int64),  # a union of 8 bytes
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Prosody:
    """How a stretch of text is spoken; the numbers are espeak-ng's own units."""

    rate: float = 170.0  # words per minute
    pitch: float = 50.0  # 0..99
    range: float = 50.0  # 0..100, 0 is monotone
    word_gap: int = 0  # units of 10 ms between words


class Espeak:
    """The process-wide synthesiser. `synthesize` is the one thing it does."""

    def __init__(self) -> None:
        import espeakng_loader

        self._lock = threading.Lock()
        self._chunks: list[np.ndarray] = []
        self._words: list[tuple[int, int]] = []
        lib = ctypes.CDLL(espeakng_loader.get_library_path())
        lib.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        lib.espeak_Synth.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
            ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self.rate = lib.espeak_Initialize(
            AUDIO_OUTPUT_SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), 0
        )  # Hz
        if self.rate <= 0:
            raise SpeechError("espeak-ng did not start; reinstall the package espeakng-loader.")
        self._callback = _Callback(self._receive)  # kept: ctypes does not hold a reference
        lib.espeak_SetSynthCallback(self._callback)
        self._lib = lib

    def _receive(self, wave, count, events) -> int:
        if wave and count > 0:
            self._chunks.append(np.ctypeslib.as_array(wave, shape=(count,)).copy())
        i = 0
        while events[i].type != EVENT_LIST_END:
            if events[i].type == EVENT_WORD:
                self._words.append((events[i].text_position - 1, events[i].audio_position))
            i += 1
        return 0

    def synthesize(
        self,
        words: list[str],
        voice: str,
        prosody: Prosody,
        stressed: dict[int, tuple[int, int]] | None = None,
    ) -> tuple[np.ndarray, list[float]]:
        """Speak words in one breath.

        words: what to say, punctuation attached; anything in them is text, never markup.
        voice: espeak-ng name, e.g. "en-us+f3". stressed: word index -> (pitch in %, rate in %) to set it apart.
        Gives the wave (T,) float32 at `self.rate` Hz in [-1, 1], and the start of each word in seconds.
        Raises SpeechError for a voice that espeak-ng does not know.
        """
        markup, starts = "<speak>", []
        for i, word in enumerate(words):
            opening, closing = "", ""
            if stressed and i in stressed:
                pitch, rate = stressed[i]
                opening = f'<prosody pitch="+{pitch}%" rate="{rate}%" volume="+6dB">'
                closing = "</prosody>"
            markup += opening
            starts.append(len(markup))
            markup += escape(word) + closing + " "
        markup += "</speak>"
        data = markup.encode() + b"\0"
        with self._lock:
            if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
                raise SpeechError(f"The embedded voice {voice!r} does not exist; `speak --help` lists the voices.")
            for key, value in ((RATE, max(90, prosody.rate)), (VOLUME, 100), (PITCH, np.clip(prosody.pitch, 0, 99)),
                               (RANGE, np.clip(prosody.range, 0, 100)), (WORD_GAP, prosody.word_gap)):  # fmt: skip
                self._lib.espeak_SetParameter(key, int(value), 0)
            self._chunks.clear()
            self._words.clear()
            self._lib.espeak_Synth(data, len(data), 0, 1, 0, CHARS_UTF8 | SSML, None, None)
            chunks, events = self._chunks[:], self._words[:]
        wave = np.concatenate(chunks).astype(np.float32) / 32768 if chunks else np.zeros(0, np.float32)
        return wave, _word_starts(starts, events, len(wave) / self.rate)


def _word_starts(starts: list[int], events: list[tuple[int, int]], duration: float) -> list[float]:
    """Seconds at which each word begins; a word that espeak-ng reported no event for begins with the next one."""
    times: list[float] = []
    k = len(events)
    following = duration
    for start in reversed(starts):
        while k > 0 and events[k - 1][0] >= start:
            k -= 1
            following = events[k][1] / 1000  # ms -> s
        times.append(min(following, duration))
    return times[::-1]


@cache
def espeak() -> Espeak:
    return Espeak()
