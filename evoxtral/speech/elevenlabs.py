"""Tagged text -> speech through ElevenLabs v3, with a key of the caller's own.

The key is sent in the header of one request and is not stored; no message, log or exception contains it.
"""

import os
import re

import httpx

from evoxtral.errors import SpeechError

# An account with data residency has an address of its own.
API = os.environ.get("EVOXTRAL_ELEVENLABS") or "https://api.elevenlabs.io"
MODEL = "eleven_v3"  # the model that speaks inline tags
FORMAT = "mp3_44100_128"  # the one every plan has
# Voices of theirs that every account has; any other is used by its id.
VOICES = {"George": "JBFqnCBsd6RMkjVDRZzb", "Sarah": "EXAVITQu4vr4xnSDxMaL", "Roger": "CwhRBWXzGAHq8TQ4Fs17"}
DEFAULT_VOICE = VOICES["George"]
TIMEOUT = httpx.Timeout(120.0, connect=10.0)  # s; a long script takes them a minute

_KEY = re.compile(r"[!-~]{1,200}")  # what a header can carry
_VOICE = re.compile(r"[A-Za-z0-9]{1,64}")

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

    key: of an ElevenLabs account, which pays for it.  voice: an id of theirs.  api: where they are.
    model, form: names of theirs. seed: the same one may sound the same.
    Raises SpeechError, a PassingError where asking again may help, which says what to do and never holds the key.
    """
    key, voice = key.strip(), voice.strip()
    if not text.strip():
        raise SpeechError("There is nothing to speak: write some words, or a tag such as [laughs].")
    if not _KEY.fullmatch(key):
        raise SpeechError("This is no ElevenLabs key: paste the one that your account there shows.")
    if not _VOICE.fullmatch(voice):
        raise SpeechError("This is no id of an ElevenLabs voice: it has letters and digits only.")
    try:
        answer = httpx.post(
            f"{api}/v1/text-to-speech/{voice}",
            params={"output_format": form},
            headers={"xi-api-key": key},
            json={"text": text, "model_id": model} | ({} if seed is None else {"seed": seed}),
            timeout=TIMEOUT,
        )
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
