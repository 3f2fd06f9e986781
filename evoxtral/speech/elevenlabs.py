"""Tagged text -> speech through ElevenLabs, with a key of the caller's own.

The key is sent in the header of one request and is not stored; no message, log or exception contains it.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence

import httpx

from evoxtral import foreign_formats
from evoxtral.errors import SpeechError

# An account with data residency has an address of its own.
API = os.environ.get("EVOXTRAL_ELEVENLABS") or "https://api.elevenlabs.io"
# Models that speak inline tags -> characters they take in a request, tags included
# (https://elevenlabs.io/docs/overview/models).
MODELS = {"eleven_v3": 5_000, "eleven_v4": 10_000, "eleven_v4_turbo": 10_000}
MODEL = "eleven_v3"
MAX_VOICES = 10  # of a dialogue
MAX_SEED = 4_294_967_295
FORMAT = "mp3_44100_128"  # the one every plan has
# Voices of theirs that every account has; any other is used by its id.
VOICES = {"George": "JBFqnCBsd6RMkjVDRZzb", "Sarah": "EXAVITQu4vr4xnSDxMaL", "Roger": "CwhRBWXzGAHq8TQ4Fs17"}
DEFAULT_VOICE = VOICES["George"]
TIMEOUT = httpx.Timeout(120.0, connect=10.0)  # s; a long script takes them a minute

log = logging.getLogger(__name__)

_KEY = re.compile(r"[!-~]{1,200}")  # what a header can carry
_VOICE = re.compile(r"[A-Za-z0-9]{1,64}")
_SPEAKER = re.compile(r"\s*(?P<name>[^:\[\]]{1,40}):\s*(?P<text>.*)")

_SPENT = "ElevenLabs says that this key has no credits left: check the plan of its account."
_UNKNOWN_VOICE = "ElevenLabs knows no such voice for this key: choose a listed one, or copy an id from their library."
# What went wrong, by their code where it says more than the status does
# (https://elevenlabs.io/docs/eleven-api/resources/errors).
_BY_CODE = {"quota_exceeded": _SPENT, "insufficient_credits": _SPENT, "voice_not_found": _UNKNOWN_VOICE}
_BY_STATUS = {
    400: "ElevenLabs cannot speak this: change the script or the voice.",
    401: "ElevenLabs does not accept this key: copy it again from your account there.",
    402: "ElevenLabs asks for a paid plan for this: choose another voice, or check the plan of the key's account.",
    403: "ElevenLabs does not let this key use text-to-speech: allow it in the key's settings there.",
    404: _UNKNOWN_VOICE,
    422: "ElevenLabs cannot speak this: change the script or the voice.",
    429: "ElevenLabs is asked too often with this key: wait a moment, then try again.",
}


class PassingError(SpeechError):
    """A failure that may be gone when the same is asked again. retry_after: s that they ask to wait, None if unsaid."""

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


def speak(
    text: str,
    key: str,
    voice: str = DEFAULT_VOICE,
    api: str = API,
    model: str = MODEL,
    seed: int | None = None,
    form: str = FORMAT,
) -> bytes:
    """Speak tagged text; gives an MP3 file, or what `form` names.

    key: of an ElevenLabs account, which pays for it.  voice: an id of theirs.  api: where they are.  model: one of
    MODELS.  seed: the same gives nearly the same recording; None for another each time.  form: an output format of
    theirs. Raises SpeechError, a PassingError where asking again may help, which says what to do and never holds the
    key.
    """
    voice = _checked_voice(voice)
    body = {"text": _checked_text(text), "model_id": model}
    return _asked(f"{api}/v1/text-to-speech/{voice}", key, body, len(body["text"]), seed, form)


def speak_dialogue(
    turns: Sequence[tuple[str, str]], key: str, api: str = API, model: str = MODEL, seed: int | None = None
) -> bytes:
    """Speak a dialogue, so that each turn answers to the one before; gives an MP3 file.

    turns: tagged text and the id of the voice that says it, in order. ElevenLabs advises at most 2,000 characters in
    all. The rest is as for `speak`.
    """
    inputs = [{"text": _checked_text(text), "voice_id": _checked_voice(voice)} for text, voice in turns]
    if not inputs:
        raise SpeechError("There is nothing to speak: write a turn for at least one speaker.")
    voices = {turn["voice_id"] for turn in inputs}
    if len(voices) > MAX_VOICES:
        raise SpeechError(f"ElevenLabs takes {MAX_VOICES} voices in a dialogue: this one has {len(voices)}.")
    characters = sum(len(turn["text"]) for turn in inputs)
    return _asked(f"{api}/v1/text-to-dialogue", key, {"inputs": inputs, "model_id": model}, characters, seed)


def turns_of(script: str, voices: Mapping[str, str]) -> list[tuple[str, str]]:
    """Turns of a script whose lines begin with a speaker, `Ann: [sighs] No.`; a line without one goes on with the last.

    voices: speaker -> id of a voice. Raises SpeechError for a speaker without a voice, and for words before the first.
    """
    turns: list[tuple[str, str]] = []
    for line in filter(str.strip, script.splitlines()):
        speaker = _SPEAKER.match(line)
        name = speaker["name"].strip() if speaker else ""
        if name in voices:
            turns.append((speaker["text"].strip(), voices[name]))
        elif turns and not name:
            text, voice = turns[-1]
            turns[-1] = (f"{text} {line.strip()}", voice)
        else:
            known = ", ".join(voices) or "none"
            raise SpeechError(f"{name or line.strip()[:40]!r} is no speaker of this script: the speakers are {known}.")
    return turns


def _checked_text(text: str) -> str:
    """The text with SSML's breaks as tags: these models read no SSML."""
    text, markup = foreign_formats.without_markup(text)
    if markup:
        log.warning("left out, ElevenLabs reads no SSML here: %s", " ".join(markup))
    if not text.strip():
        raise SpeechError("There is nothing to speak: write some words, or a tag such as [laughs].")
    return text


def _checked_voice(voice: str) -> str:
    voice = voice.strip()
    if not _VOICE.fullmatch(voice):
        raise SpeechError("This is no id of an ElevenLabs voice: it has letters and digits only.")
    return voice


def _asked(url: str, key: str, body: dict, characters: int, seed: int | None, form: str = FORMAT) -> bytes:
    """The recording that they answer a request with. Raises SpeechError."""
    key, model = key.strip(), body["model_id"]
    if not _KEY.fullmatch(key):
        raise SpeechError("This is no ElevenLabs key: paste the one that your account there shows.")
    if model not in MODELS:
        raise SpeechError(f"ElevenLabs has no model {model!r} that speaks tags: choose one of {', '.join(MODELS)}.")
    if characters > MODELS[model]:
        larger = [name for name, most in MODELS.items() if most >= characters]
        advice = f"use {larger[0]}, or shorten it" if larger else "shorten it, or speak it in parts"
        raise SpeechError(f"{model} takes {MODELS[model]:,} characters and the script has {characters:,}: {advice}.")
    if seed is not None:
        if not 0 <= seed <= MAX_SEED:
            raise SpeechError(f"The seed is {seed}: it must be a whole number from 0 to {MAX_SEED}.")
        body = body | {"seed": seed}
    headers, query = {"xi-api-key": key}, {"output_format": form}
    try:
        answer = httpx.post(url, params=query, headers=headers, json=body, timeout=TIMEOUT)
    except httpx.TimeoutException:
        raise PassingError("ElevenLabs did not answer in time: try again, or speak a shorter script.") from None
    except httpx.HTTPError:
        raise PassingError("ElevenLabs cannot be reached from this machine: check its network.") from None
    if not answer.is_success:
        complaint = _complaint(answer)
        if (answer.status_code == 429 or answer.status_code >= 500) and complaint != _SPENT:
            raise PassingError(complaint, _seconds(answer.headers.get("retry-after", "")))
        raise SpeechError(complaint)
    if not answer.headers.get("content-type", "").startswith("audio/"):
        raise PassingError("ElevenLabs answered with something that is no recording: try again later.")
    return answer.content


def _seconds(retry_after: str) -> float | None:
    """Of a Retry-After header, which may name a date instead."""
    return float(retry_after) if retry_after.isdecimal() else None


def _complaint(answer: httpx.Response) -> str:
    """Our own sentence for an error of theirs: their message might repeat the request."""
    for code, sentence in _BY_CODE.items():
        if f'"{code}"' in answer.text:
            return sentence
    fallback = f"ElevenLabs has a problem of its own (status {answer.status_code}): try again later."
    return _BY_STATUS.get(answer.status_code, fallback)
