"""flite (Debian's package `flite`): four English voices of the 2000s, through ctypes. Fast, and easy to tell apart.

Reference: flite 2.2's flite.h, cst_item.h and cst_wave.h. The library keeps its voices for the life of the process.
"""

import ctypes
import ctypes.util
import threading
from functools import cache

import numpy as np

from evoxtral.errors import SpeechError

VOICES = {"kal16": "male", "awb": "male", "rms": "male", "slt": "female"}
HOW = "apt install flite"
_START, _END = (
    f"R:SylStructure.daughter{which}.daughter{which}.R:Segment.{edge}".encode()
    for which, edge in (("1", "p.end"), ("n", "end"))
)


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


_POINTER, _TEXT = ctypes.c_void_p, ctypes.c_char_p
_FUNCTIONS = {  # name: (result, arguments)
    "flite_init": (ctypes.c_int, ()),
    "flite_synth_text": (_POINTER, (_TEXT, _POINTER)),
    "utt_relation": (_POINTER, (_POINTER, _TEXT)),
    "relation_head": (_POINTER, (_POINTER,)),
    "item_next": (_POINTER, (_POINTER,)),
    "item_daughter": (_POINTER, (_POINTER,)),
    "item_last_daughter": (_POINTER, (_POINTER,)),
    "flite_ffeature_float": (ctypes.c_float, (_POINTER, _TEXT)),
    "flite_ffeature_string": (_TEXT, (_POINTER, _TEXT)),
    "feat_val": (_POINTER, (_POINTER, _TEXT)),
    "val_wave": (_POINTER, (_POINTER,)),
    "delete_utterance": (None, (_POINTER,)),
    "feat_set_float": (None, (_POINTER, _TEXT, ctypes.c_float)),
}
_libc = ctypes.CDLL(None)
_lock = threading.Lock()  # the library is not made for threads


@cache
def missing() -> str | None:
    """How to install these voices; None if installed."""
    if all(ctypes.util.find_library(name) for name in ("flite", *(f"flite_cmu_us_{voice}" for voice in VOICES))):
        return None
    return f"flite is not installed: {HOW}."


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("flite"), mode=ctypes.RTLD_GLOBAL)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.flite_init()
    return library


@cache
def _voice(name: str) -> int:
    _library()
    register = getattr(
        ctypes.CDLL(ctypes.util.find_library(f"flite_cmu_us_{name}"), mode=ctypes.RTLD_GLOBAL),
        f"register_cmu_us_{name}",
    )
    register.restype, register.argtypes = _POINTER, (_TEXT,)
    return register(None)


def synthesize(words: list[str], voice: str, rate: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Speak words in one breath. rate: 1 is normal, more is faster.

    Gives the waveform (T,) float32 at 16 kHz, and the seconds at which each word begins and ends, (words, 2): a word
    that is not said (a dash) has those of the word before it.
    """
    if complaint := missing():
        raise SpeechError(complaint)
    with _lock:
        library, chosen = _library(), _voice(voice)
        features = ctypes.cast(ctypes.c_void_p(chosen + ctypes.sizeof(_POINTER)), ctypes.POINTER(_POINTER))[0]
        library.feat_set_float(features, b"duration_stretch", 1 / rate)
        _libc.srand(1)  # the noise of its newer voices
        text = " ".join(words).encode("ascii", "ignore").replace(b"\0", b" ")
        utterance = library.flite_synth_text(text, chosen)
        try:
            first = ctypes.cast(utterance, ctypes.POINTER(_POINTER))[0]  # of the struct: its features
            value = library.feat_val(first, b"wave")
            found = ctypes.cast(library.val_wave(value), ctypes.POINTER(_Wave))[0]
            waveform = np.ctypeslib.as_array(found.samples, (found.num_samples,)) / np.float32(32768)
            return waveform.astype(np.float32), _times(library, utterance, words)
        finally:
            library.delete_utterance(utterance)


def _times(library: ctypes.CDLL, utterance: int, words: list[str]) -> np.ndarray:
    """flite's tokens are the text's words without their marks; "well-known" is two of them. Words and tokens are
    matched by their letters."""
    spans, token = [], library.relation_head(library.utt_relation(utterance, b"Token"))
    while token:
        name = library.flite_ffeature_string(token, b"name").decode("ascii", "ignore")
        first, last = library.item_daughter(token), library.item_last_daughter(token)
        if first:
            edges = library.flite_ffeature_float(first, _START), library.flite_ffeature_float(last, _END)
            spans.append((sum(map(str.isalnum, name)), *edges))
        token = library.item_next(token)
    out, k, end = [], 0, 0.0
    for word in words:
        wanted = sum(c.isalnum() and c.isascii() for c in word)
        start, taken = None, 0
        while taken < wanted and k < len(spans):
            taken += spans[k][0]
            start = spans[k][1] if start is None else start
            end = spans[k][2]
            k += 1
        out.append((end if start is None else start, end))
    return np.array(out)
