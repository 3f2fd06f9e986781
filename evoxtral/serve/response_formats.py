"""A transcript in OpenAI's and in Mistral's words."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict

from evoxtral.inference.prompt import Prompt
from evoxtral.serve import events, word_times
from evoxtral.serve.transcription_form import Asked
from evoxtral.transcript import Cue, Transcript

# Whisper's names of the languages that Voxtral was trained on; another is called by its code.
_LANGUAGES = {
    "en": "english", "fr": "french", "de": "german", "es": "spanish", "it": "italian", "pt": "portuguese",
    "nl": "dutch", "hi": "hindi", "ar": "arabic",
}  # fmt: skip
SEEK = 100  # a second: Whisper counts positions in frames of 10 ms


class Answer:
    """How one request is answered: in which words, and with or without tags."""

    def __init__(self, asked: Asked, prompt: Prompt):
        self.asked, self.prompt = asked, prompt
        self._growth = events.Growth(self.streamed)

    def streamed(self, transcript: Transcript) -> Transcript:
        """What a stream tells: all tags or none. How doubtful a tag is, is known only at the end."""
        return transcript.words_alone() if self.asked.plain else transcript

    def shown(self, transcript: Transcript) -> Transcript:
        """What is answered at once: no tag, or none that is too doubtful to be shown."""
        return transcript.words_alone() if self.asked.plain else transcript.without(transcript.hide_below)

    def whole(self, transcript: Transcript) -> dict:
        """The JSON of a transcript that is done."""
        shown = self.shown(transcript)
        if self.asked.mistral:
            return self._mistral(transcript, shown)
        if self.asked.format == "verbose_json":
            return self._verbose(transcript, shown)
        found = {"text": shown.text, "usage": self._usage(transcript)}
        if self.asked.logprobs:
            found["logprobs"] = events.logprobs([token for cue in shown.spoken_cues() for token in cue.tokens])
        return found

    def step(self, transcript: Transcript) -> Sequence[str]:
        """The events of a stream for a transcript that grows, the last of which is done."""
        return self._mistral_step(transcript) if self.asked.mistral else self._openai_step(transcript)

    def _openai_step(self, transcript: Transcript) -> Sequence[str]:
        new, tokens = self._growth.add(transcript)
        told = []
        if new:
            delta = {"type": "transcript.text.delta", "delta": new}
            if self.asked.logprobs:
                delta["logprobs"] = events.logprobs(tokens)
            told.append(events.event(delta))
        if transcript.done:
            shown = self.streamed(transcript)
            # What verbose_json adds is in the last event: litellm asks for it where nothing is asked for.
            more = self._verbose(transcript, shown) if self.asked.format == "verbose_json" else {}
            done = more | {"type": "transcript.text.done", "text": shown.text, "usage": self._usage(transcript)}
            if self.asked.logprobs:
                done["logprobs"] = events.logprobs([token for cue in shown.spoken_cues() for token in cue.tokens])
            told.append(events.event(done))
        return told

    def _mistral_step(self, transcript: Transcript) -> Sequence[str]:
        told = []
        new, _ = self._growth.add(transcript)
        if new:
            told.append({"type": "transcription.text.delta", "text": new})
        if transcript.done:
            done = self._mistral(transcript, self.streamed(transcript))
            told += [segment | {"type": "transcription.segment"} for segment in done["segments"]]
            told.append({"type": "transcription.done"} | done)
        return [events.event(data, data["type"]) for data in told]

    def _verbose(self, transcript: Transcript, shown: Transcript) -> dict:
        """Whisper's fields, and ours that a program may want: all tags as data, subtitles, confidence."""
        wanted = self.asked.granularities or ("segment",)
        found = {
            "task": "transcribe",
            "language": _LANGUAGES.get(self.asked.language, self.asked.language or "unknown"),
            "duration": transcript.duration,
            "text": shown.text,
            "usage": {"type": "duration", "seconds": math.ceil(transcript.duration)},
            "tags": [asdict(tag) for tag in transcript.tags],
            "confidence": transcript.confidence,
            "doubtful": transcript.doubtful,
            "truncated": transcript.truncated,
        }
        if "segment" in wanted:
            found["segments"] = [self._segment(i, cue) for i, cue in enumerate(shown.spoken_cues())]
        found["cues"] = [asdict(cue) for cue in shown.subtitles()]
        if "word" in wanted:
            found["words"] = word_times.of(transcript.words_alone())
        return found

    def _segment(self, index: int, cue: Cue) -> dict:
        start, end = cue.heard
        text = cue.text.encode()
        known = [entry["logprob"] for entry in events.logprobs(cue.tokens)]
        return {
            "id": index,
            "seek": round(cue.start * SEEK),
            "start": start,
            "end": end,
            "text": cue.text,
            "tokens": self.prompt.encode(cue.text),
            "temperature": self.asked.decoding.temperature,
            "avg_logprob": sum(known) / len(known) if known else 0.0,
            "compression_ratio": len(text) / len(zlib.compress(text)),
            "no_speech_prob": 0.0,  # silence is left out before the model hears it
        }

    def _mistral(self, transcript: Transcript, shown: Transcript) -> dict:
        counted = self._usage(transcript)
        return {
            "model": self.asked.model,
            "text": shown.text,
            "language": self.asked.language,
            "segments": self._mistral_segments(shown),
            "usage": {
                "prompt_tokens": counted["input_tokens"],
                "completion_tokens": counted["output_tokens"],
                "total_tokens": counted["total_tokens"],
                "prompt_audio_seconds": math.ceil(transcript.duration),
            },
        }

    def _mistral_segments(self, shown: Transcript) -> list[dict]:
        kind = {"type": "transcription_segment"}
        if "word" in self.asked.granularities:
            words = word_times.of(shown.words_alone())
            return [kind | {"text": word["word"], "start": word["start"], "end": word["end"]} for word in words]
        if "segment" in self.asked.granularities:
            times = [(cue.text, *cue.heard) for cue in shown.spoken_cues()]
            return [kind | {"text": text, "start": start, "end": end} for text, start, end in times]
        return []

    def _usage(self, transcript: Transcript) -> dict:
        """Tokens that the model read and wrote: a prompt for each segment."""
        segments = len(transcript.cues)
        audio = segments * self.prompt.audio_tokens
        read = segments * len(self.prompt.transcription_ids(self.asked.language))
        written = transcript.token_count
        return {
            "type": "tokens",
            "input_tokens": read,
            "input_token_details": {"audio_tokens": audio, "text_tokens": read - audio},
            "output_tokens": written,
            "total_tokens": read + written,
        }
