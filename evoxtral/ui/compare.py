"""The Compare tab: one clip in, every variant's transcript side by side, filling as it is decoded."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import gradio as gr
import numpy as np
import spaces

from evoxtral import audio, metrics, tags
from evoxtral.errors import AudioError, EvoxtralError
from evoxtral.transcript import Transcript
from evoxtral.ui import theme, view
from evoxtral.ui.endpoints import SCORES, TRANSCRIPT, TRANSCRIPTS, endpoint, typed
from evoxtral.ui.model import Model

# Voxtral's languages; tags were trained in English only.
DETECT = "auto"
LANGUAGES = {
    "English": "en",
    "Detect · tags untested": DETECT,
    "Spanish · tags untested": "es",
    "French · tags untested": "fr",
    "Portuguese · tags untested": "pt",
    "Hindi · tags untested": "hi",
    "German · tags untested": "de",
    "Dutch · tags untested": "nl",
    "Italian · tags untested": "it",
}

# A visitor without an account has 120 s of ZeroGPU a day, so each clip asks for what it needs. Moving the
# weights to the GPU and reading the prompt take up to 15 s; segments decode side by side: length adds little.
GPU_BASE_SECONDS, GPU_SECONDS_PER_AUDIO_SECOND, GPU_MOST_SECONDS = 15.0, 0.25, 110.0

# Decoding shares one queue, whichever button or endpoint asked for it. One machine has one model, so one clip
# at a time is fastest for all; on ZeroGPU every visitor gets a device.
QUEUEING = {"concurrency_id": "decoding", "concurrency_limit": 8 if spaces.config.Config.zero_gpu else 1}

# For events that only draw: no queue, no spinner over what is being read, no endpoint.
QUIETLY = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

# A click on a "Speak it" reaches Python as a click on the columns that carries the text.
SAY_CLICKED = """element.addEventListener("click", event => {
  const say = event.target.closest("[data-say]");
  if (say) trigger("click", {text: say.dataset.say});
});"""

READY = "Record, upload or pick a clip, and see what each model hears in it."
NO_CLIP = "Record or upload a clip, or pick an example."
DECODING = "Decoding…"
LOADING = "Loading the model: this happens once and takes a few seconds…"


@dataclass(frozen=True)
class Result:
    """What the last clip gave, for drawing it again without decoding. stem: what downloads are called."""

    transcripts: Mapping[str, Transcript]
    stem: str


@dataclass(frozen=True)
class Example:
    """A clip that ships with the project and the tagged text that was spoken in it."""

    label: str
    clip: Path
    reference: str

    @classmethod
    def read(cls, folder: Path) -> "tuple[Example, ...]":
        """From `examples.json` in a folder: a list of {"label", "file", "text"}; none without that file."""
        listing = folder / "examples.json"
        if not listing.is_file():
            return ()
        entries = json.loads(listing.read_text(encoding="utf-8"))
        return tuple(cls(entry["label"], folder / entry["file"], entry["text"]) for entry in entries)


def gpu_seconds(wave: np.ndarray, language: str | None, variants: Sequence[str] | None) -> float:
    """How long one clip may hold a ZeroGPU device; takes what `decode` takes."""
    needed = GPU_BASE_SECONDS + GPU_SECONDS_PER_AUDIO_SECOND * len(wave) / audio.SAMPLE_RATE
    return min(GPU_MOST_SECONDS, needed)


class Decoder:
    """Clips in, growing transcripts out; a clip that cannot be used is an `EvoxtralError`."""

    def __init__(self, model: Model):
        @spaces.GPU(duration=gpu_seconds)
        def decode(
            wave: np.ndarray, language: str | None, variants: Sequence[str] | None
        ) -> Iterator[dict[str, Transcript] | EvoxtralError]:
            """wave: (T,) float32 at 16 kHz. On ZeroGPU this body runs in a process that has the device; what is
            raised there arrives as the bare name of its class, so a mistake is handed over instead.
            """
            try:
                yield from model.engine().stream((audio.SAMPLE_RATE, wave), variants, language)
            except EvoxtralError as error:
                yield error

        self._decode = decode

    def stream(
        self, clip: str | None, language: str, variants: Sequence[str] | None = None
    ) -> Iterator[dict[str, Transcript]]:
        """clip: path of a file.  language: one of LANGUAGES.  variants: None for all. Raises EvoxtralError."""
        if clip is None:
            raise AudioError(NO_CLIP)
        # The clip is read before a GPU is asked for, so a broken file costs a visitor nothing.
        for step in self._decode(audio.load(clip), None if language == DETECT else language, variants):
            if isinstance(step, EvoxtralError):
                raise step
            yield step

    def last(self, clip: str | None, language: str, variants: Sequence[str] | None = None) -> dict[str, Transcript]:
        """The finished transcripts. Arguments as of `stream`."""
        *_, transcripts = self.stream(clip, language, variants)
        return transcripts


def scores(text: str, reference: str) -> dict[str, str]:
    """The seven scores of one text against its reference, as shown in a column."""
    found = asdict(metrics.score([(text, reference)]).scores)
    values = {metric.label: found[metric.name] for metric in metrics.METRICS}
    return {label: "–" if value is None else view.percent(value) for label, value in values.items()}


def draw(result: Result, shown: view.Filter, reference: str) -> str:
    """The columns of a result as shown now."""
    reference = reference.strip()
    scored = {
        variant: scores(shown.text(transcript), reference)
        for variant, transcript in result.transcripts.items()
        if reference and transcript.done
    }
    return view.columns(result.transcripts, shown, reference, scored, result.stem)


def about_clip(clip: str | None) -> str:
    """Under the recorder: how long the clip is, or why it cannot be used; before anything runs."""
    if clip is None:
        return view.status(NO_CLIP)
    try:
        wave = audio.load(clip)
    except EvoxtralError as error:
        return view.alarm(str(error))
    if audio.is_silent(wave):
        return view.alarm("This clip is silent: there is nothing to transcribe.")
    return view.status(view.clip_length(audio.duration(wave)))


class CompareTab:
    """Lays the tab out and connects it, inside the Blocks that is being built."""

    def __init__(self, model: Model, examples: tuple[Example, ...]):
        self.model = model
        self.decoder = Decoder(model)
        with gr.Row(elem_classes="ev-compare"):
            with gr.Column(scale=0, min_width=320, elem_classes="ev-input"):
                self._lay_out_input(examples)
            with gr.Column(scale=1, min_width=320, elem_classes="ev-output"):
                self._lay_out_output()
        self._connect()

    def _lay_out_input(self, examples: tuple[Example, ...]) -> None:
        self.clip = gr.Audio(
            label="Your clip",
            sources=["upload", "microphone"],
            type="filepath",
            buttons=[],
            elem_id="clip",
            waveform_options=gr.WaveformOptions(*theme.WAVEFORM),
        )
        self.about = gr.HTML(view.status(NO_CLIP), elem_id="about-clip", apply_default_css=False)
        self.reference = gr.Textbox(
            label="What was really said (optional)",
            placeholder="Paste the tagged text to score every column.",
            lines=2,
            max_lines=4,
            elem_id="reference",
            render=False,  # the examples fill it, and stand above it
        )
        self.examples = gr.Examples(
            [[str(example.clip), example.reference] for example in examples] or [[None, None]],
            inputs=[self.clip, self.reference],
            example_labels=[example.label for example in examples] or None,
            label="Or try one of these",
            elem_id="examples",
            cache_examples=False,
            visible=bool(examples),
        )
        with gr.Row(elem_classes="ev-go"):
            self.language = gr.Dropdown(
                list(LANGUAGES.items()),
                value="en",
                label="Language spoken",
                show_label=False,
                container=False,
                elem_id="language",
                min_width=120,
            )
            self.go = gr.Button("Compare", variant="primary", elem_id="go", min_width=120)
        self.reference.render()

    def _lay_out_output(self) -> None:
        with gr.Row(elem_classes="ev-tools"):
            self.tags_on = gr.Checkbox(True, label="Tags", elem_id="tags-on", min_width=70)
            self.categories = gr.CheckboxGroup(
                [(name.capitalize(), name) for name in tags.CATEGORIES],
                value=list(tags.CATEGORIES),
                label="Categories of tags",
                show_label=False,
                elem_classes="ev-legend",
                elem_id="categories",
            )
            self.confidence = gr.Slider(0, 100, value=0, step=1, label="At least % sure", elem_id="confidence")
        self.status = gr.HTML(view.status(READY), elem_id="status", apply_default_css=False)
        self.columns = gr.HTML(view.empty_columns(), elem_id="columns", apply_default_css=False, js_on_load=SAY_CLICKED)
        self.result = gr.State()

    def _connect(self) -> None:
        how_shown = [self.tags_on, self.categories, self.confidence, self.reference]
        drawn = [self.status, self.columns]
        self._decode = {
            "fn": self.decode,
            "inputs": [self.clip, self.language, *how_shown],
            "outputs": [*drawn, self.result],
            "show_progress": "hidden",
            "api_visibility": "private",
            **QUEUEING,
        }
        self._redraw = {"fn": redraw, "inputs": [self.result, *how_shown], "outputs": drawn, **QUIETLY}
        self.clip.change(about_clip, self.clip, self.about, **QUIETLY)
        self.decode_after(self.go.click)
        self.decode_after(self.examples.load_input_event.then)
        gr.on([control.change for control in how_shown], trigger_mode="always_last", **self._redraw)
        self._serve()

    def _serve(self) -> None:
        variant = gr.Textbox("rl", label="Variant", visible=False)
        prediction = gr.Textbox(label="Prediction", visible=False)
        endpoint(self.compare, [self.clip, self.language], typed(TRANSCRIPTS), **QUEUEING)
        endpoint(self.transcribe, [self.clip, variant, self.language], typed(TRANSCRIPT), **QUEUEING)
        endpoint(score, [prediction, self.reference], typed(SCORES))

    def decode_after(self, trigger: Callable) -> None:
        """Decode the clip when something happens: `button.click`, or another event's `then` or `success`."""
        # What is shown may have been changed while text was streaming: draw once more when it is complete.
        trigger(**self._decode).then(**self._redraw)

    def decode(
        self,
        clip: str | None,
        language: str,
        tags_on: bool,
        categories: list[str],
        confidence: float,
        reference: str,
    ) -> Iterator[tuple]:
        """Decode a clip; every step gives the status line, the columns and the result so far."""
        yield view.status(DECODING if self.model.ready else LOADING), gr.skip(), gr.skip()
        shown = _filter(tags_on, categories, confidence)
        try:
            for transcripts in self.decoder.stream(clip, language):
                result = Result(transcripts, view.file_stem(clip))
                yield view.status(DECODING), draw(result, shown, reference), result
        except EvoxtralError as error:
            # The clip stays in the recorder; what an earlier clip gave would only look like this one's.
            yield view.alarm(str(error)), view.empty_columns(), None

    def compare(self, audio: str, language: str = "en") -> dict:
        """Transcribe a clip with every variant of the model.

        Args:
            audio: The recording: WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM.
            language: What is spoken: a two-letter code, or "auto" to detect it. Tags know English.

        Returns:
            For each variant: tagged text, plain text, tags with their probabilities, and seconds spent.
        """
        return {name: as_json(transcript) for name, transcript in self.decoder.last(audio, language).items()}

    def transcribe(self, audio: str, variant: str = "rl", language: str = "en") -> dict:
        """Transcribe a clip with one variant of the model.

        Args:
            audio: The recording: WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM.
            variant: base, sft or rl, or the name of an adapter of your own.
            language: What is spoken: a two-letter code, or "auto" to detect it. Tags know English.

        Returns:
            Tagged text, plain text, tags with their probabilities, and seconds spent.
        """
        return as_json(self.decoder.last(audio, language, (variant,))[variant])


def score(prediction: str, reference: str) -> dict:
    """Score a tagged transcript against its reference with the metrics of Evoxtral-Bench.

    Args:
        prediction: The tagged text to score.
        reference: The true tagged text.

    Returns:
        Seven scores as fractions of 1.
    """
    return asdict(metrics.score([(prediction, reference)]).scores)


def as_json(transcript: Transcript) -> dict:
    whole = transcript.as_dict()
    return {key: whole[key] for key in TRANSCRIPT["properties"]}


def redraw(result: Result | None, tags_on: bool, categories: list[str], confidence: float, reference: str) -> tuple:
    """The status line and columns of the last result, as to be shown now: nothing is decoded again."""
    if result is None:
        return gr.skip(), gr.skip()
    shown = _filter(tags_on, categories, confidence)
    verdict = view.verdict(view.agreement(result.transcripts, shown), scored=bool(reference.strip()))
    return verdict, draw(result, shown, reference)


def _filter(tags_on: bool, categories: list[str], confidence: float) -> view.Filter:
    """From the page's own units: confidence in percent."""
    return view.Filter(frozenset(categories if tags_on else ()), confidence / 100)
