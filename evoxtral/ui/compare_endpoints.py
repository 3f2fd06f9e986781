"""The endpoints of Compare for programs: transcripts as JSON or files, the tracks of a recording, scores."""

from dataclasses import asdict

import gradio as gr

from evoxtral import audio, metrics
from evoxtral.audio import listing
from evoxtral.errors import EvoxtralError
from evoxtral.exports import content
from evoxtral.foreign_formats import DIALECTS
from evoxtral.transcript import FORMATS, VariantResult
from evoxtral.ui import view
from evoxtral.ui.decoder import QUEUEING, Decoder
from evoxtral.ui.endpoints import endpoint, json_output, text_input
from evoxtral.ui.model import Model


class CompareEndpoints:
    """Each method answers one endpoint; its docstring is what callers read."""

    def __init__(self, model: Model, decoder: Decoder):
        self.model, self.decoder = model, decoder

    def serve(self, clip: gr.Audio, language: gr.Dropdown) -> None:
        """Serve them, with the inputs of the tab, inside the Blocks that is being built."""
        variant = text_input("Variant", "sft", "")
        prediction = text_input("Prediction", "[sad] I was there.")
        reference = text_input("Reference", "[sad] I was here. [sighs]")
        meanings = {metric.name: metric.definition for metric in metrics.METRICS}
        parts = [text_input("Track", "2", ""), text_input("Channels", "each", "")]
        asked = [clip, variant, language]
        form, text = text_input("Format", "srt", "srt"), text_input("Content", "")
        dialect = text_input("Dialect", "mistral", "")
        every = json_output(dict[str, VariantResult])
        endpoint(self.compare, [clip, language, *parts], every, **QUEUEING)
        endpoint(self.transcribe, [*asked, *parts], json_output(VariantResult), **QUEUEING)
        endpoint(self.export, [*asked, form, *parts, dialect], text, **QUEUEING)
        endpoint(tracks, [clip], json_output(list[audio.TrackInfo]))
        endpoint(score, [prediction, reference], json_output(metrics.Scores, n="pairs that were scored: 1", **meanings))

    def compare(self, audio: str, language: str = "en", track: str = "", channels: str = "") -> dict:
        """Transcribe a clip with every variant of the model.

        Args:
            audio: The recording.
            language: What is spoken: a two-letter code, or "auto" to detect it. Tags know English.
            track: "mix", the number of one track, or "each": then the cues name theirs.
            channels: The same for channels. Both empty mix, unless people speak at once in them most of the time.

        Returns:
            For each variant, by name: tagged and plain text, tags with their probabilities, segments with their times.
        """
        written = self.decoder.last(audio, language, part=f"{track}/{channels}")
        return {variant: asdict(VariantResult.of(transcript)) for variant, transcript in written.items()}

    def transcribe(
        self, audio: str, variant: str = "", language: str = "en", track: str = "", channels: str = ""
    ) -> dict:
        """Transcribe a clip with one variant of the model.

        Args:
            audio: The recording.
            variant: base, sft or rl, or the name of an adapter of your own; empty for the model's last.
            language: What is spoken: a two-letter code, or "auto" to detect it. Tags know English.
            track: "mix", the number of one track, or "each": then the cues name theirs.
            channels: The same for channels. Both empty mix, unless people speak at once in them most of the time.

        Returns:
            Tagged and plain text, tags with their probabilities, and segments with their times.
        """
        variant = variant or self.model.engine().variants[-1]
        return asdict(VariantResult.of(self.decoder.last(audio, language, (variant,), f"{track}/{channels}")[variant]))

    def export(
        self,
        audio: str,
        variant: str = "",
        language: str = "en",
        format: str = "srt",
        track: str = "",
        channels: str = "",
        dialect: str = "",
    ) -> str:
        """Transcribe a clip with one variant of the model, into a file's content.

        Args:
            audio: The recording.
            variant: base, sft or rl, or the name of an adapter of your own; empty for the model's last.
            language: What is spoken: a two-letter code, or "auto" to detect it. Tags know English.
            format: srt or vtt for subtitles, txt, json, or prompt for the tagged text in parts for ElevenLabs v3.
            track: "mix", the number of one track, or "each": then the cues name theirs.
            channels: The same for channels. Both empty mix, unless people speak at once in them most of the time.
            dialect: elevenlabs, mistral, plain or ssml: tags as that text-to-speech system wants them, for txt alone.

        Returns:
            The content of a file of that format.
        """
        if format not in FORMATS:
            raise EvoxtralError(f"{format!r} is no format: choose one of {', '.join(FORMATS)}.")
        if dialect and (format != "txt" or dialect not in DIALECTS):
            raise EvoxtralError(f"A dialect is one of {', '.join(DIALECTS)}, and of the format txt.")
        variant = variant or self.model.engine().variants[-1]
        return content(
            self.decoder.last(audio, language, (variant,), f"{track}/{channels}")[variant], format, dialect or None
        )


def tracks(audio: str) -> list:
    """List the audio tracks of a recording and their channels, by what its file states.

    Args:
        audio: The recording.

    Returns:
        For each track: its number, name, language, the names of its channels, and its rate.
    """
    return [asdict(track) for track in listing(audio)]


def score(prediction: str, reference: str) -> dict:
    """Score a tagged transcript against its reference with the metrics of Evoxtral-Bench.

    Args:
        prediction: The tagged text to score.
        reference: The true tagged text.

    Returns:
        Seven scores as fractions of 1; wer and cer are null if the reference has no words.
    """
    if max(len(prediction), len(reference)) > view.MAX_CHARACTERS:
        raise EvoxtralError(f"A text has more than {view.MAX_CHARACTERS:,} characters: score it in parts.")
    return asdict(metrics.score([(prediction, reference)]).scores)
