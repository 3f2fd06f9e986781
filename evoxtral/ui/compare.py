"""The Compare tab: one clip in, every variant's transcript side by side, filling as it is decoded."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import spaces

from evoxtral import audio, metrics, tags
from evoxtral.errors import AudioError, EvoxtralError
from evoxtral.exports import content
from evoxtral.transcript import FORMATS, Transcript, VariantResult
from evoxtral.ui import history, theme, view
from evoxtral.ui.endpoints import endpoint, text_input, typed
from evoxtral.ui.gpu import Pace
from evoxtral.ui.history import Result
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

ZERO_GPU = spaces.config.Config.zero_gpu

# Decoding shares one queue, whichever button or endpoint asked for it. One machine has one model, so one clip
# at a time is fastest for all; on ZeroGPU every visitor gets a device.
QUEUEING = {"concurrency_id": "decoding", "concurrency_limit": 8 if ZERO_GPU else 1}

# For events that only redraw: no queue, no spinner, no endpoint.
QUIETLY = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

# What a visitor does in the columns, as events: "say" with the text to be spoken; "pen" with the button of a column
# ("open" its editor, "done", "undo") and what stands in the editor that is open; "write" with the latter, when it is
# left. The focus follows the pen. A button that is pressed does not take the focus first: that would be a "write" too.
COLUMN_EVENTS = """
let follow = null;
const place = card => ({column: card.dataset.variant, result: card.dataset.result});
const draft = () => {
  const boxes = [...element.querySelectorAll("textarea")];
  return boxes.length ? {...place(boxes[0].closest(".ev-column")), texts: boxes.map(box => box.value)} : null;
};
element.addEventListener("mousedown", event => event.target.closest("[data-pen]") && event.preventDefault());
element.addEventListener("click", event => {
  const button = event.target.closest("[data-say], [data-pen]");
  if (button?.dataset.say) trigger("say", {text: button.dataset.say});
  else if (button?.dataset.pen) {
    const card = button.closest(".ev-column"), what = button.dataset.pen;
    follow = () => card.querySelector(what === "open" ? "textarea" : "[data-pen=open]")?.focus();
    trigger("pen", {what, ...place(card), draft: draft()});
  }
});
element.addEventListener("change", () => trigger("write", draft()));
watch("value", () => { follow?.(); follow = null; });
"""

# A new clip clears the reference of the last one, unless the visitor has typed it.
ANEW = "reference => reference === typed.reference ? reference : ''"

# The time by the visitor's clock, as "2026-11-22 14:32:05", in place of the first input; and where the columns are
# below the screen, they come into view.
STAMPED = """async (_, ...given) => {
  if (innerWidth < 900) document.querySelector("#status").scrollIntoView({behavior: "smooth"});
  return [new Date().toLocaleString("sv"), ...given];
}"""

# Whether a full queue is why nothing was decoded. Gradio says so in a note that knows nothing of the clip: the status
# line has a better sentence, and one is enough.
WAS_FULL = """async (_, ...given) => {
  await new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  const notes = [...document.querySelectorAll(".toast-body.error")];
  const full = notes.filter(note => note.textContent.includes("currently busy"));
  for (const note of full) {
    note.hidden = true;
    note.querySelector(".toast-close").click();
  }
  return [full.length > 0, ...given];
}"""

READY = "Record, upload or pick a clip, and see what each model hears in it."
LIMITS = f"Up to {audio.MAX_SECONDS / 60:.0f} minutes and {audio.MAX_MEGABYTES:.0f} MB, in any common format."
NO_CLIP = "Record or upload a clip, or pick an example."
CLEANED = "This clip is no longer on the server, which keeps clips for an hour: record, choose or speak it again."
WAITING = "Your clip waits for its turn…"
DECODING = "Decoding…"
# A server error, or no GPU available: Gradio says which in a note of its own, which disappears after a while.
NOT_DECODED = "This clip was not transcribed. It is still here: press Compare again in a moment."
BROKEN_OFF = "This broke off, and what was written is kept. Your clip is still here: press Compare again in a moment."
FULL = "The house is full, no more visitors can wait. Your clip is still here: press Compare again in a minute."
LOADING = "Loading the model: this happens once, in seconds if it is here, in minutes if it is downloaded first…"

ELSEWHERE = ""  # no path: never what lies in the recorder
QUEUED = "queued"  # no number: never a result's


@dataclass(frozen=True)
class Shown:
    """What the columns hold: every variant of one result, or one variant of several.

    editing: key of the column whose text is being changed.  note: where the results come from, if not from the clip.
    clip: what lies in the recorder while the box for the reference is about them; ELSEWHERE if that has another clip.
    """

    results: tuple[Result, ...]
    variant: str = ""
    editing: str = ""
    note: str = ""
    clip: str | None = None

    def places(self) -> dict[str, tuple[Result, str]]:
        """Key of each column → the result and the variant in it."""
        if len(self.results) == 1:
            return {variant: (self.results[0], variant) for variant in self.results[0].written}
        return {
            f"{number}.{self.variant}": (result, self.variant)
            for number, result in enumerate(self.results, start=1)
            if self.variant in result.written
        }

    @property
    def done(self) -> bool:
        return all(transcript.done for result in self.results for transcript in result.written.values())

    def columns(self, reference: str | None = None) -> list[view.Column]:
        """reference: what was really said, in place of what each result has for it."""
        return [self._column(key, *place, reference) for key, place in self.places().items()]

    def _column(self, key: str, result: Result, variant: str, reference: str | None) -> view.Column:
        heading = view.heading(variant)
        if len(self.results) > 1:
            number, _, _ = key.partition(".")
            heading = view.Heading(f"{number}. {result.file}", f"{heading.title} · {result.model} · {result.time}")
        written, stem = result.written[variant], f"{view.file_stem(result.file)}.{variant}"
        clip = f"{result.file} {written.duration}"
        # That of a single result stands in the box, and may just have been taken out of it.
        own = result.reference if reference is None or len(self.results) > 1 else ""
        said = (reference or own).strip()[: view.MAX_CHARACTERS]
        return view.Column(key, heading, result.transcripts[variant], written, stem, result.id, clip, said)

    def replaced(self, result: Result) -> "Shown":
        """With a newer state of one of the results."""
        return replace(self, results=tuple(result if other.id == result.id else other for other in self.results))

    def edited(self, column: str, result: str, texts: Sequence[str] | None) -> "Shown":
        """With a person's texts in a column, None for the model's; unchanged if it has been filled anew since.
        result: the id of the one that was there."""
        there, variant = self.places().get(column, (None, ""))
        if there is None or there.id != result:
            return self
        return self.replaced(there.as_written(variant) if texts is None else there.edited(variant, texts))

    def broken_off(self) -> "Shown | None":
        """The partial transcripts of a decoder that was stopped, if there is any text."""
        (result,) = self.results
        written = {name: transcript.broken_off() for name, transcript in result.written.items()}
        return self.replaced(replace(result, written=written)) if any(t.text for t in written.values()) else None


@dataclass
class Look:
    """How a visitor looks at the columns, which changes while they fill: every step of the decoder asks anew.

    decoding: the number of the result that the screen is waiting for, QUEUED before it has one, "" for none.
    """

    shown: view.Filter = view.EVERYTHING
    decoding: str = ""


class Controls(NamedTuple):
    """What a visitor has set, as the page sends it with each event.

    confidence: in percent.  reference: what stands in its box.  clip: path of what lies in the recorder.
    """

    look: Look
    tags_on: bool
    categories: list[str]
    confidence: float
    reference: str
    clip: str | None

    def hold(self) -> view.Filter:
        """Which tags are shown from now on."""
        categories, likely = frozenset(self.categories), self.confidence / 100
        self.look.shown = view.Filter(categories, likely, words_alone=not self.tags_on)
        return self.look.shown


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


class Decoder:
    """Clips in, growing transcripts out; a clip that cannot be used is an `EvoxtralError`."""

    def __init__(self, model: Model):
        self.model, self.pace = model, Pace()

        def decode(
            waveform: np.ndarray, language: str | None, variants: Sequence[str] | None
        ) -> Iterator[dict[str, Transcript] | EvoxtralError]:
            """waveform: (T,) float32 at 16 kHz. On ZeroGPU this body runs in a process that has the device; what is
            raised there arrives as the bare name of its class, so a mistake is handed over instead.
            """
            try:
                yield from model.engine().stream((audio.SAMPLE_RATE, waveform), variants, language)
            except EvoxtralError as error:
                yield error

        self._on_host, self._on_gpu = decode, spaces.GPU(duration=self.gpu_seconds)(decode)

    def stream(
        self, clip: str | None, language: str, variants: Sequence[str] | None = None
    ) -> Iterator[dict[str, Transcript]]:
        """clip: path of a file.  language: one of LANGUAGES.  variants: None for all. Raises EvoxtralError."""
        if clip is None:
            raise AudioError(NO_CLIP)
        recording = self.read(clip, variants)
        waveform, about = recording.waveform, {"incomplete": recording.incomplete, "notes": recording.notes}
        # Silence is not decoded: no GPU is requested.
        decode = self._on_host if audio.is_silent(waveform) else self._on_gpu
        for step in decode(waveform, None if language == DETECT else language, variants):
            if isinstance(step, EvoxtralError):
                raise step
            step = {name: replace(transcript, **about) for name, transcript in step.items()}
            yield step
        self.pace.learn(step)

    def last(self, clip: str | None, language: str, variants: Sequence[str] | None = None) -> dict[str, Transcript]:
        """The finished transcripts. Arguments as of `stream`."""
        *_, transcripts = self.stream(clip, language, variants)
        return transcripts

    def read(self, clip: str, variants: Sequence[str] | None = None) -> audio.Recording:
        """The recording of a clip that can be decoded here; before a GPU is asked for, so that no other costs a visitor
        anything. Raises EvoxtralError for an unknown variant, AudioError for the clip."""
        if not Path(clip).is_file():
            raise AudioError(CLEANED)
        if variants:
            self.model.engine().ordered(variants)
        recording = audio.read(clip)
        if ZERO_GPU:
            self.pace.check(recording.duration, self._count(variants))
        return recording

    def gpu_seconds(self, waveform: np.ndarray, language: str | None, variants: Sequence[str] | None) -> float:
        """Seconds that one clip may hold a ZeroGPU device. Same arguments as `decode`."""
        return self.pace.seconds(audio.duration(waveform), self._count(variants))

    def _count(self, variants: Sequence[str] | None) -> int:
        return len(variants or self.model.engine().variants)


def scores(text: str, reference: str) -> dict[str, str]:
    """The seven scores of one text against its reference, by name, as shown in a column."""
    found = asdict(metrics.score([(text, reference)]).scores)
    values = {metric.name: found[metric.name] for metric in metrics.METRICS}
    return {name: "–" if value is None else view.percent(value) for name, value in values.items()}


def draw(on_screen: Shown, shown: view.Filter, reference: str | None) -> str:
    """The columns as shown now; scores are of all tags that are likely enough, hidden or not."""
    columns = on_screen.columns(reference)
    scored = {
        column.key: scores(shown.likely(column.transcript).text, column.reference)
        for column in columns
        if column.reference and column.transcript.done
    }
    return view.cards(columns, shown, scored, on_screen.editing)


def about_clip(clip: str | None, decoder: Decoder) -> str:
    """Under the recorder: how long the clip is and what of it will be heard, or why it cannot be used; before
    anything runs."""
    if clip is None:
        return view.status(LIMITS)
    try:
        recording = decoder.read(clip)
    except EvoxtralError as error:
        return view.alarm(str(error))
    waveform = recording.waveform
    if audio.is_silent(waveform):
        return view.alarm("This clip is silent: there is nothing to transcribe.")
    segments = audio.segments(waveform, decoder.model.engine().window_seconds) if decoder.model.ready else []
    length = view.clip_length(recording.duration, [segment.end - segment.start for segment in segments])
    return view.status(f"{length} {view.incomplete(recording.incomplete)}" if recording.incomplete else length)


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
        self.about = gr.HTML(view.status(LIMITS), elem_id="about-clip", apply_default_css=False)
        self.reference = gr.Textbox(
            label="What was really said (optional)",
            placeholder="Paste the tagged text to score every column.",
            lines=2,
            max_lines=4,
            max_length=view.MAX_CHARACTERS,
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
        self.clip.keep_in_cache |= self.clip.temp_files  # copies of the examples: they are no visitor's
        with gr.Row(elem_classes="ev-go"):
            self.language = gr.Dropdown(
                list(LANGUAGES.items()),
                value="en",
                label="Language spoken",
                show_label=False,
                container=False,
                elem_id="language",
                min_width=190,
            )
            self.go = gr.Button("Compare", variant="primary", elem_id="go", min_width=110)
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
        self.columns = gr.HTML(view.empty_cards(), elem_id="columns", apply_default_css=False, js_on_load=COLUMN_EVENTS)
        self.on_screen = gr.State()
        self.look = gr.State(Look())
        self.changes = gr.JSON(visible=False)  # on their way to the history in the browser
        self.now = gr.Textbox(visible=False)
        self.full = gr.Checkbox(visible=False)

    def _connect(self) -> None:
        controls = Controls(self.look, self.tags_on, self.categories, self.confidence, self.reference, self.clip)
        known = [self.on_screen, self.changes]
        drawn = [self.status, self.columns]
        self._decode = {
            "fn": self.decode,
            "inputs": [self.now, self.language, *controls],
            "outputs": [*known, *drawn],
            "js": STAMPED,
            "show_progress": "minimal",
            "show_progress_on": self.status,
            "api_visibility": "private",
            "trigger_mode": "always_last",  # a clip that is sent while another is decoded comes next
            **QUEUEING,
        }
        self._send = {"fn": send, "inputs": [*controls], "outputs": self.status, **QUIETLY}
        self._redraw = {"fn": redraw, "inputs": [self.on_screen, *controls], "outputs": drawn, **QUIETLY}
        self._refer = {"fn": refer, "inputs": [self.on_screen, self.reference, self.clip], "outputs": known, **QUIETLY}
        self._fail = {
            "fn": not_decoded,
            "inputs": [self.full, self.on_screen, *controls],
            "outputs": [*known, *drawn],
            "js": WAS_FULL,
            **QUIETLY,
        }
        self.clip.change(lambda clip: about_clip(clip, self.decoder), self.clip, self.about, **QUIETLY)
        anew = [self.clip.clear, self.clip.upload, self.clip.start_recording]
        gr.on(anew, begin, [self.on_screen, *controls], self.status, **QUIETLY)
        gr.on(anew, None, self.reference, self.reference, js=ANEW, **QUIETLY)
        self.decode_after(self.go.click)
        self.decode_after(self.examples.load_input_event.then)
        set_anew = [part.change for part in (self.tags_on, self.categories, self.confidence, self.reference)]
        gr.on(set_anew, trigger_mode="always_last", **self._redraw)
        keep_after(self.reference.blur(**self._refer), self.changes)
        # None of these events may be lost: by default Gradio drops one that comes while another is pending.
        often = {"trigger_mode": "multiple", **QUIETLY}
        keep_after(self.columns.pen(use_pen, [self.on_screen, *controls], [*known, *drawn], **often), self.changes)
        keep_after(self.columns.write(write, self.on_screen, known, **often), self.changes)
        self._serve()

    def _serve(self) -> None:
        variant = text_input("Variant", "sft", "")
        prediction = text_input("Prediction", "[sad] I was there.")
        reference = text_input("Reference", "[sad] I was here. [sighs]")
        meanings = {metric.name: metric.definition for metric in metrics.METRICS}
        endpoint(self.compare, [self.clip, self.language], typed(dict[str, VariantResult]), **QUEUEING)
        endpoint(self.transcribe, [self.clip, variant, self.language], typed(VariantResult), **QUEUEING)
        form, text = text_input("Format", "srt", "srt"), text_input("Content", "")
        endpoint(self.export, [self.clip, variant, self.language, form], text, **QUEUEING)
        endpoint(score, [prediction, reference], typed(metrics.Scores, n="pairs that were scored: 1", **meanings))

    def decode_after(self, trigger: Callable) -> None:
        """Decode the clip when something happens: `button.click`, or another event's `then` or `success`."""
        decoded = trigger(**self._send).then(**self._decode)
        keep_after(decoded, self.changes)
        # The reference may have been given while text was streaming.
        complete = decoded.success(**self._redraw)
        keep_after(complete.success(**self._refer), self.changes)
        keep_after(decoded.failure(**self._fail), self.changes)

    def show_after(self, trigger: Callable, *outputs: gr.components.Component, **event: Any) -> None:
        """Show results without decoding when something happens: the event's `fn` gives what is on screen, what stands
        in the box for the reference, and what else `outputs` are."""
        shown = trigger(outputs=[self.on_screen, self.reference, *outputs], **event, **QUIETLY)
        shown.success(**self._redraw)

    def decode(self, now: str, language: str, *controls: Any) -> Iterator[tuple]:
        """Decode a clip; every step gives what is on screen, changes to the history, the status line and the columns.

        controls: see Controls.  Where a visitor has two clips decoded at once, the screen is the later one's; the
        earlier goes to the history.
        """
        controls = Controls(*controls)
        controls.hold()
        look, clip, reference = controls.look, controls.clip, controls.reference
        number = look.decoding = _new_number()
        yield gr.skip(), gr.skip(), view.working(DECODING if self.model.ready else LOADING), gr.skip()
        try:
            for transcripts in self.decoder.stream(clip, language):
                name, model = Path(clip).name, self.model.engine().checkpoint.name
                on_screen = Shown((Result(number, name, model, now, transcripts, reference),), clip=clip)
                changes = history.added(*on_screen.results) if on_screen.done else gr.skip()
                if look.decoding == number:
                    yield on_screen, changes, view.working(DECODING), draw(on_screen, look.shown, reference)
                else:
                    yield gr.skip(), changes, gr.skip(), gr.skip()
        except EvoxtralError as error:
            # The clip stays in the recorder; what an earlier clip gave would only look like this one's.
            mine = look.decoding == number
            yield None if mine else gr.skip(), [], view.alarm(str(error)), view.empty_cards() if mine else gr.skip()
        finally:
            if look.decoding == number:
                look.decoding = ""

    def compare(self, audio: str, language: str = "en") -> dict:
        """Transcribe a clip with every variant of the model.

        Args:
            audio: The recording: WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM.
            language: What is spoken: a two-letter code, or "auto" to detect it. Tags know English.

        Returns:
            For each variant, by name: tagged and plain text, tags with their probabilities, segments with their times.
        """
        written = self.decoder.last(audio, language)
        return {variant: asdict(VariantResult.of(transcript)) for variant, transcript in written.items()}

    def transcribe(self, audio: str, variant: str = "", language: str = "en") -> dict:
        """Transcribe a clip with one variant of the model.

        Args:
            audio: The recording: WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM.
            variant: base, sft or rl, or the name of an adapter of your own; empty for the model's last.
            language: What is spoken: a two-letter code, or "auto" to detect it. Tags know English.

        Returns:
            Tagged and plain text, tags with their probabilities, and segments with their times.
        """
        variant = variant or self.model.engine().variants[-1]
        return asdict(VariantResult.of(self.decoder.last(audio, language, (variant,))[variant]))

    def export(self, audio: str, variant: str = "", language: str = "en", format: str = "srt") -> str:
        """Transcribe a clip with one variant of the model, into a file's content.

        Args:
            audio: The recording: WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM.
            variant: base, sft or rl, or the name of an adapter of your own; empty for the model's last.
            language: What is spoken: a two-letter code, or "auto" to detect it. Tags know English.
            format: srt or vtt for subtitles, txt, json, or prompt for the tagged text in parts for ElevenLabs v3.

        Returns:
            The content of a file of that format.
        """
        if format not in FORMATS:
            raise EvoxtralError(f"{format!r} is no format: choose one of {', '.join(FORMATS)}.")
        variant = variant or self.model.engine().variants[-1]
        return content(self.decoder.last(audio, language, (variant,))[variant], format)


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


def _new_number() -> str:
    """Of a result: no other has it, and later ones sort behind it, within a second too."""
    return f"{time.time_ns():016x}{secrets.token_hex(4)}"


def send(*controls: Any) -> str:
    """The status line, for a clip that joins the queue. controls: see Controls."""
    controls = Controls(*controls)
    if controls.look.decoding:  # the line is about that one
        return gr.skip()
    if controls.clip is None:
        return view.alarm(NO_CLIP)
    controls.look.decoding = QUEUED
    return view.waiting(WAITING)


def begin(on_screen: Shown | None, *controls: Any) -> str:
    """The status line, for a visitor who clears the recorder or takes another clip: what was wrong with the last one
    has been read. controls: see Controls."""
    if Controls(*controls).look.decoding:
        return gr.skip()
    return redraw(on_screen, *controls)[0] if on_screen else view.status(READY)


def redraw(on_screen: Shown | None, *controls: Any) -> tuple:
    """The status line and the columns, as to be shown now: nothing is decoded again. controls: see Controls."""
    controls = Controls(*controls)
    shown = controls.hold()
    if on_screen is None:
        return gr.skip(), gr.skip()
    said = controls.reference if controls.clip == on_screen.clip else None
    drawn = draw(on_screen, shown, said)
    if controls.look.decoding:  # then the line is about that
        return gr.skip(), drawn
    columns = on_screen.columns()
    sentence = " ".join(filter(None, (on_screen.note, view.doubt(columns, shown), view.agreement(columns, shown))))
    return view.verdict(sentence, any(column.reference for column in on_screen.columns(said))), drawn


def keep_after(event: gr.events.Dependency, changes: gr.JSON) -> None:
    """What an event has put into `changes` goes on to the history in the browser."""
    event.success(None, changes, js="changes => kept.change(changes)", **QUIETLY)


def not_decoded(full: bool | None, on_screen: Shown | None, *controls: Any) -> tuple:
    """What is on screen, changes to the history, status line and columns, of a clip that the decoder never saw to the
    end of."""
    look = Controls(*controls).look
    if look.decoding == QUEUED:
        look.decoding = ""
    if full or on_screen is None or on_screen.done:
        return gr.skip(), [], view.alarm(FULL if full else NOT_DECODED), gr.skip()
    on_screen = on_screen.broken_off()
    if on_screen is None:
        return None, [], view.alarm(NOT_DECODED), view.empty_cards()
    _, columns = redraw(on_screen, *controls)
    return on_screen, history.added(*on_screen.results), view.alarm(BROKEN_OFF), columns


def refer(on_screen: Shown | None, reference: str, clip: str | None) -> tuple:
    """What is on screen and changes to the history, with a reference that was given after decoding."""
    if on_screen is None or len(on_screen.results) != 1 or on_screen.clip != clip:
        return gr.skip(), []
    if on_screen.results[0].reference == reference:
        return gr.skip(), []
    after = on_screen.replaced(replace(on_screen.results[0], reference=reference))
    return after, history.changed(on_screen.results, after.results)


def use_pen(pen: gr.EventData, on_screen: Shown | None, *controls: Any) -> tuple:
    """What is on screen, changes to the history, status line and columns, after a button of an editor was pressed."""
    if on_screen is None:
        return gr.skip(), [], gr.skip(), gr.skip()
    before = on_screen
    if pen.draft:
        on_screen = on_screen.edited(**pen.draft)
    if pen.what == "undo":
        on_screen = on_screen.edited(pen.column, pen.result, None)
    on_screen = replace(on_screen, editing=pen.column if pen.what == "open" else "")
    return on_screen, history.changed(before.results, on_screen.results), *redraw(on_screen, *controls)


def write(draft: gr.EventData, on_screen: Shown | None) -> tuple:
    """What is on screen and changes to the history, with what stands in an editor that has been left: whatever comes
    next, it is not lost. The editor stays as it is."""
    if on_screen is None:
        return gr.skip(), []
    after = on_screen.edited(draft.column, draft.result, draft.texts)
    return after, history.changed(on_screen.results, after.results)
