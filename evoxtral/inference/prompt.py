"""Prompt ids and log-mels of a transcription request, made by Voxtral's own processor.

Each waveform fits one model window, so all prompts of one language have the same length: a batch needs no padding and
no attention mask. Audio is always given as arrays: the processor would also fetch paths and URLs, which must never come
from a user.
"""

import base64
import codecs
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mistral_common.exceptions import MistralCommonException
from transformers import VoxtralConfig, VoxtralProcessor, WhisperFeatureExtractor
from transformers.tokenization_mistral_common import MistralCommonBackend

from evoxtral.audio import MAX_PAUSE, SAMPLE_RATE, wav_bytes
from evoxtral.audio.features import log_mel
from evoxtral.errors import CheckpointError, EvoxtralError, reading

FRAMES_PER_POSITION = 2  # mel frames; the encoder's second convolution has stride 2

# A clip for requests of which only the ids are used: the processor pads every clip to full windows.
_PLACEHOLDER_AUDIO = np.zeros(SAMPLE_RATE // 10, np.float32)
# A model that detects the language may write it first, as ordinary text; it is removed from the transcript.
_SPOKEN_LANGUAGE = re.compile(r"lang:[a-z]{2}")


class Prompt:
    """The processor of one checkpoint.

    window_seconds, window_samples, window_frames: length of one model window in s, samples at 16 kHz and mel
    frames. hop: samples per mel frame (160 in the published model, which is 10 ms; more in a coarser one).
    positions: of the encoder in one window. audio_tokens: how many positions of the prompt it takes. eos_id, audio_id:
    token ids. max_pause: seconds of silence that a window may hold (`max_pause` in config.json).
    """

    def __init__(self, folder: str | Path, config: VoxtralConfig, window: float | None = None):
        """folder: holds tekken.json, the processor's files and config.json, which was read as `config`.

        window: seconds to encode instead of the model's own window, rounded up to whole audio tokens. What is padding
        in a short clip is saved; it is not what the model was trained on.  Raises CheckpointError when it is too long
        or too short, and when the processor's files are missing or do not fit the configuration.
        """
        audio = config.audio_config
        self._set_window(folder, audio.max_source_positions)
        self.audio_id = config.audio_token_id
        self._tekken = self.processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer
        self.eos_id = self._tekken.eos_id
        self._transcription_ids: dict[str | None, list[int]] = {}  # by language; building one takes ~0.1 s
        with reading(f"config.json or tekken.json in {folder}", MistralCommonException):
            # A model of one language was not trained to detect it: None means that language.
            languages = getattr(config, "languages", ())
            self._only_language = languages[0] if len(languages) == 1 else None
            # A model that was trained on short pauses only may end its text at a longer one, and lose what follows.
            self.max_pause = float(getattr(config, "max_pause", MAX_PAUSE))
            if not self.max_pause > 0:
                raise ValueError(f"max_pause is {self.max_pause:g} s")
            per_token = audio.intermediate_size // audio.hidden_size
            self.audio_tokens = self.positions // per_token
            fits = self._request_transcription(None).count(self.audio_id) == self.audio_tokens
        if not fits:
            raise CheckpointError(
                f"The processor in {folder} does not fit its model, whose window, {self.window_seconds:g} s, "
                f"is {self.audio_tokens} audio tokens; use the processor files that came with the weights."
            )
        if window is not None:
            if not 1 <= window <= self.window_seconds:
                raise CheckpointError(
                    f"A window of {window:g} s cannot be had: choose one from 1 to {self.window_seconds:g} s."
                )
            self.audio_tokens = math.ceil(window / self.window_seconds * self.audio_tokens)
            self._set_window(folder, self.audio_tokens * per_token)

    def _set_window(self, folder: str | Path, positions: int) -> None:
        self.positions = positions
        self.window_frames = positions * FRAMES_PER_POSITION
        self.processor = load_processor(folder, self.window_frames)
        self.hop = self.processor.feature_extractor.hop_length
        self.window_samples = self.window_frames * self.hop
        self.window_seconds = self.window_samples / SAMPLE_RATE

    def transcription_ids(self, language: str | None = "en") -> list[int]:
        """Prompt ids (L,) of a request to transcribe one window.

        language: ISO 639-1 code, None to let the model detect it. Raises EvoxtralError for anything else.
        """
        if language not in self._transcription_ids:
            self._transcription_ids[language] = self._fitting(self._request_transcription(language))
        return list(self._transcription_ids[language])

    def chat_ids(self, question: str) -> list[int]:
        """Prompt ids (L,) of a chat turn: one window of audio, then a question about it."""
        audio = {"type": "audio", "base64": base64.b64encode(wav_bytes(_PLACEHOLDER_AUDIO)).decode()}
        turn = {"role": "user", "content": [audio, {"type": "text", "text": question}]}
        return self._fitting(self.processor.apply_chat_template([turn])["input_ids"][0].tolist())

    def _fitting(self, ids: list[int]) -> list[int]:
        """The tokenizer makes room for the model's own window: what is too much for this one is left out."""
        surplus = ids.count(self.audio_id) - self.audio_tokens
        first = ids.index(self.audio_id)
        return ids[:first] + ids[first + max(0, surplus) :]

    def _request_transcription(self, language: str | None) -> list[int]:
        language = self._only_language if language is None else language
        settings = {"format": ["WAV"], "sampling_rate": SAMPLE_RATE, "model_id": "voxtral"}
        try:
            request = self.processor.apply_transcription_request([_PLACEHOLDER_AUDIO], language=language, **settings)
        except ValueError as error:
            raise EvoxtralError(
                f"{language!r} is not a language code: use two letters such as 'en' (ISO 639-1), or none to detect it."
            ) from error
        return request["input_ids"][0].tolist()

    def log_mel(self, waveforms: Sequence[np.ndarray], device: str | torch.device = "cpu") -> torch.Tensor:
        """Log-mels (S, 128, window_frames) of S waveforms (T,): see `features.log_mel`."""
        return log_mel(waveforms, self.window_samples, self.processor.feature_extractor, device)

    def encode(self, text: str) -> list[int]:
        """Token ids of text, without any special token."""
        return self._tekken.encode(text, bos=False, eos=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens have none."""
        return "".join(self.pieces(ids))

    def pieces(self, ids: Sequence[int], final: bool = True) -> list[str]:
        """The text that each token adds; joined they are the whole text.

        A character whose bytes are spread over several tokens appears with the token that completes it; bytes
        that never make a character appear as U+FFFD, at the end only if no more ids are to come (`final`).
        """
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        special = self._tekken.num_special_tokens
        pieces = [utf8.decode(self._tekken.id_to_byte_piece(i)) if i >= special else "" for i in ids]
        if pieces and final:
            pieces[-1] += utf8.decode(b"", final=True)
        return _without_language(pieces)


def load_processor(folder: str | Path, window_frames: int) -> VoxtralProcessor:
    """Voxtral's processor for windows of `window_frames` mel frames.

    The processor assumes windows of 30 s. Other lengths are set in `audio_kwargs`, which it does not save or read from
    its files: so they are set after every load. Raises CheckpointError.
    """
    with reading(_file_of(folder, "tekken.json"), MistralCommonException):
        tokenizer = MistralCommonBackend.from_pretrained(folder)
    with reading(_file_of(folder, "processor_config.json", "preprocessor_config.json")):
        processor = VoxtralProcessor(WhisperFeatureExtractor.from_pretrained(folder), tokenizer)
    processor.audio_kwargs = {
        **processor.audio_kwargs,
        "pad_to_multiple_of": window_frames * processor.feature_extractor.hop_length,
        "max_source_positions": window_frames,
    }
    return processor


def _file_of(folder: str | Path, *names: str) -> Path:
    """The first of these files that exists."""
    for file in (Path(folder) / name for name in names):
        if file.is_file():
            return file
    raise CheckpointError(
        f"{folder} has no {' or '.join(names)}: a model folder needs the processor's files beside its weights."
    )


def _without_language(pieces: list[str]) -> list[str]:
    spoken = _SPOKEN_LANGUAGE.match("".join(pieces))
    left = spoken.end() if spoken else 0
    for i, piece in enumerate(pieces):
        if not left:
            break
        pieces[i] = piece[left:]
        left -= min(left, len(piece))
    return pieces
