"""espeak-ng from its pip wheel, through ctypes: text in, waveform and word times out. No system package.

The library is one global synthesiser, and what it says depends a little on what it said before: the phase of its
oscillator outlives even espeak_Terminate. So it is loaded anew, a few milliseconds, for every recording, and the same
text always gives the same waveform. Reference: espeak-ng's speak_lib.h (API revision 12, espeak-ng 1.52).
"""

import ctypes
import math
import threading
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

import numpy as np

from evoxtral.errors import SpeechError

AUDIO_OUTPUT_SYNCHRONOUS = 2
CHARS_UTF8, SSML, ENDPAUSE = 0x1, 0x10, 0x1000
RATE, VOLUME, PITCH, RANGE, WORD_GAP = 1, 2, 3, 4, 7  # espeak_PARAMETER
EVENT_LIST_END, EVENT_WORD = 0, 1
IPA, TIE = 0x02, 0x80  # bits of espeak_TextToPhonemes' phonememode; the letter for ties is in its bits 8 to 23
_STRESS = "',%=:;|!"  # marks around a phoneme's name


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


_libc = ctypes.CDLL(None)
_libc.dlclose.argtypes = [ctypes.c_void_p]
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Prosody:
    """How a stretch of text is spoken; the numbers are espeak-ng's own units."""

    rate: float = 170.0  # words per minute
    pitch: float = 50.0  # 0..99
    range: float = 50.0  # 0..100, 0 is monotone
    word_gap: int = 0  # units of 10 ms between words


class Espeak:
    """A fresh synthesiser while it is open (`with Espeak() as voice:`); one at a time in a process.

    rate: of its waveforms, in Hz.
    """

    _lock = threading.Lock()

    def __enter__(self) -> "Espeak":
        import espeakng_loader

        self._lock.acquire()
        self._chunks: list[np.ndarray] = []
        self._words: list[tuple[int, int]] = []
        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        self._lib.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        self._lib.espeak_Synth.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
            ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self.rate = self._lib.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data, 0)
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(0))  # Initialize seeds the breath in a voice with the time
        self._callback = _Callback(self._receive)  # kept: ctypes does not hold a reference
        self._lib.espeak_SetSynthCallback(self._callback)
        return self

    def __exit__(self, *_) -> None:
        self._lib.espeak_Terminate()
        _libc.dlclose(self._lib._handle)
        self._lock.release()

    def _receive(self, waveform, count, events) -> int:
        if waveform and count > 0:
            self._chunks.append(np.frombuffer(ctypes.string_at(waveform, 2 * count), np.int16))
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
        Gives the waveform (T,) float32 at `self.rate` Hz in [-1, 1], and the start of each word in seconds.
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
            markup += escape(word.replace("\0", " ")) + closing + " "  # C would stop at the first NUL
        markup += "</speak>"
        data = markup.encode() + b"\0"
        if self._lib.espeak_SetVoiceByName(voice.encode(errors="replace")) != 0:
            raise SpeechError(f"The embedded voice {voice!r} does not exist; `speak --help` lists the voices.")
        for key, value in ((RATE, max(90, prosody.rate)), (VOLUME, 100), (PITCH, np.clip(prosody.pitch, 0, 99)),
                           (RANGE, np.clip(prosody.range, 0, 100)), (WORD_GAP, prosody.word_gap)):  # fmt: skip
            self._lib.espeak_SetParameter(key, int(value), 0)
        self._chunks.clear()
        self._words.clear()
        self._lib.espeak_Synth(data, len(data), 0, 1, 0, CHARS_UTF8 | SSML, None, None)
        waveform = np.concatenate(self._chunks) / np.float32(32768) if self._chunks else np.zeros(0, np.float32)
        return waveform, _word_starts(words, starts, self._words, len(waveform) / self.rate)

    def phonemes(self, text: str, language: str) -> list[str]:
        """What espeak-ng says for a text, as its own phoneme names, without stress marks and pauses."""
        clauses = self._clauses(text, language, ord("_") << 8)
        found = [name for clause in clauses for name in clause.replace(" ", "_").split("_")]
        return [name for phoneme in found if (name := phoneme.strip(_STRESS))]

    def ipa(self, text: str, language: str) -> list[str]:
        """What espeak-ng says for a text in IPA with stress marks, a string for each of its words; "^" ties letters
        that are one phoneme (t^ʃ). Its words are not always the text's: it says "of the" in one, and "42" in two.
        """
        return " ".join(self._clauses(text, language, IPA | TIE | ord("^") << 8)).split()

    def _clauses(self, text: str, language: str, mode: int) -> list[str]:
        """The phonemes of each clause of a text. mode: `phonememode` of espeak_TextToPhonemes."""
        if self._lib.espeak_SetVoiceByName(language.encode()) != 0:
            raise SpeechError(f"espeak-ng does not speak {language!r}.")
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        rest, found = ctypes.c_char_p(text.replace("\0", " ").encode()), []
        while rest:  # one clause a call; it moves `rest` on, to null at the end
            found.append(self._lib.espeak_TextToPhonemes(ctypes.byref(rest), CHARS_UTF8, mode).decode())
        return found


def _word_starts(words: list[str], starts: list[int], events: list[tuple[int, int]], duration: float) -> list[float]:
    """Seconds at which each word begins.

    espeak-ng says some words in one with those before them ("in the", "do not") and reports the first only: the others
    have their share of that time, by their letters. What has none ("—") takes no time.
    """
    spans = pairwise([*starts, math.inf])
    heard = [next((ms / 1000 for at, ms in events if start <= at < end), None) for start, end in spans]
    heard.append(duration)
    letters = [sum(map(str.isalnum, word)) for word in words]
    times: list[float] = []
    first = 0  # of the words that were said in one
    for i in range(len(words)):
        if heard[i] is not None:
            first = i
        following = next(k for k in range(i + 1, len(heard)) if heard[k] is not None)
        if heard[first] is None:  # nothing was reported yet
            times.append(heard[following])
            continue
        share = sum(letters[first:i]) / max(1, sum(letters[first:following]))
        times.append(heard[first] + share * (heard[following] - heard[first]))
    return [min(time, duration) for time in times]
