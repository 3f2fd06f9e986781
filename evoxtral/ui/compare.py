"""The Compare tab: one clip in, every variant's transcript side by side, filling as it is decoded."""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from evoxtral import audio, metrics, tags
from evoxtral.audio import listing
from evoxtral.errors import EvoxtralError
from evoxtral.exports import content
from evoxtral.transcript import FORMATS, VariantResult
from evoxtral.ui import history, theme, view
from evoxtral.ui.comparison import Comparison
from evoxtral.ui.decoder import EVERYTHING, LANGUAGES, NO_CLIP, QUEUEING, Decoder, Example, parts_of
from evoxtral.ui.endpoints import endpoint, json_output, text_input
from evoxtral.ui.history import Result
from evoxtral.ui.model import Model

# For events that only redraw: no queue, no spinner, no endpoint.
REDRAW_ONLY = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

# Events of the columns: "speak" carries a text to be spoken. "edit" carries the button that was pressed ("open", "done"
# or "undo") and the texts of the editor that is open. "draft" carries those texts when an editor loses the focus.
# After "edit" the focus moves to the editor, or back to its button. A button does not take the focus when it is
# pressed, as that would send a "draft" before the "edit".
COLUMN_EVENTS_JS = """
let follow = null;
const place = card => ({column: card.dataset.variant, result: card.dataset.result});
const draft = () => {
  const boxes = [...element.querySelectorAll("textarea")];
  return boxes.length ? {...place(boxes[0].closest(".ev-column")), texts: boxes.map(box => box.value)} : null;
};
element.addEventListener("mousedown", event => event.target.closest("[data-edit]") && event.preventDefault());
element.addEventListener("click", event => {
  const button = event.target.closest("[data-speak], [data-edit]");
  if (button?.dataset.speak) trigger("speak", {text: button.dataset.speak});
  else if (button?.dataset.edit) {
    const card = button.closest(".ev-column"), action = button.dataset.edit;
    follow = () => card.querySelector(action === "open" ? "textarea" : "[data-edit=open]")?.focus();
    trigger("edit", {action, ...place(card), draft: draft()});
  }
});
element.addEventListener("change", () => trigger("draft", draft()));
watch("value", () => { follow?.(); follow = null; });
"""

# A new clip clears the reference of the previous one, unless the visitor typed it.
CLEAR_REFERENCE_JS = "reference => reference === typed.reference ? reference : ''"

# Replaces the first input by the visitor's local time, as "2026-11-22 14:32:05". On narrow screens, where the columns
# are below the controls, it also scrolls to them.
WITH_TIME_JS = """async (_, ...given) => {
  if (innerWidth < 900) document.querySelector("#status").scrollIntoView({behavior: "smooth"});
  return [new Date().toLocaleString("sv"), ...given];
}"""

# Replaces the first input by whether decoding failed because the queue is full. It also removes Gradio's own message on
# that, as the status line has a better one.
QUEUE_WAS_FULL_JS = """async (_, ...given) => {
  await new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  const notes = [...document.querySelectorAll(".toast-body.error")];
  const full = notes.filter(note => note.textContent.includes("currently busy"));
  for (const note of full) {
    note.hidden = true;
    note.querySelector(".toast-close").click();
  }
  return [full.length > 0, ...given];
}"""

SHOW_UNSURE = "shown => { document.body.classList.toggle('ev-show-unsure', shown); }"

READY = "Record, upload or pick a clip, and see what each model hears in it."
LIMITS = f"Up to {audio.MAX_SECONDS / 60:.0f} minutes and {audio.MAX_MEGABYTES:.0f} MB, in any common format."
WAITING = "Your clip waits for its turn…"
DECODING = "Decoding…"
# A server error, or no GPU available: Gradio says which in a message that disappears after a while.
DECODE_FAILED = "This clip was not transcribed. It is still here: press Compare again in a moment."
INTERRUPTED = "This broke off, and what was written is kept. Your clip is still here: press Compare again in a moment."
QUEUE_FULL = "The house is full, no more visitors can wait. Your clip is still here: press Compare again in a minute."
LOADING = "Loading the model: this happens once, in seconds if it is here, in minutes if it is downloaded first…"

QUEUED = "queued"  # never the id of a result


@dataclass
class ViewState:
    """Settings of one visitor that can change during decoding: each step of the decoder reads them again.

    decoding: id of the result that is being decoded for the screen, QUEUED before it has one, "" for none.
    """

    tag_filter: view.Filter = view.EVERYTHING
    decoding: str = ""


class Controls(NamedTuple):
    """The state of the controls, sent by the page with each event.

    confidence: in percent.  reference: text of its box.  clip: path of the clip in the recorder.
    """

    view_state: ViewState
    tags_on: bool
    categories: list[str]
    confidence: float
    reference: str
    clip: str | None

    def update_filter(self) -> view.Filter:
        """Set and return the filter of tags."""
        categories, likely = frozenset(self.categories), self.confidence / 100
        self.view_state.tag_filter = view.Filter(categories, likely, words_alone=not self.tags_on)
        return self.view_state.tag_filter


def scores(text: str, reference: str) -> dict[str, str]:
    """The scores of one text against its reference, by name, as shown in a column."""
    found = asdict(metrics.score([(text, reference)]).scores)
    values = {metric.name: found[metric.name] for metric in metrics.METRICS}
    return {name: "–" if value is None else view.percent(value) for name, value in values.items()}


def draw(comparison: Comparison, tag_filter: view.Filter, reference: str | None) -> str:
    """The columns as HTML. Scores include tags of hidden categories, if they are likely enough."""
    columns = comparison.columns(reference)
    scored = {
        column.key: scores(tag_filter.likely(column.transcript).text, column.reference)
        for column in columns
        if column.reference and column.transcript.done
    }
    return view.draw_columns(columns, tag_filter, scored, comparison.editing)


def describe_clip(clip: str | None, decoder: Decoder) -> str:
    """The line under the recorder, before decoding: duration and segments of the clip, or why it cannot be used."""
    if clip is None:
        return view.status(LIMITS)
    try:
        (recording,) = decoder.read(clip)
    except EvoxtralError as error:
        return view.error(str(error))
    waveform = recording.waveform
    if audio.is_silent(waveform):
        return view.error("This clip is silent: there is nothing to transcribe.")
    segments = audio.segments(waveform, decoder.model.engine().window_seconds) if decoder.model.ready else []
    length = view.clip_length(recording.duration, [segment.end - segment.start for segment in segments])
    return view.status(f"{length} {view.incomplete(recording.incomplete)}" if recording.incomplete else length)


def offer_parts(clip: str | None) -> dict:
    """The chooser of tracks and channels: shown where a clip has several."""
    try:
        parts = parts_of(clip)
    except EvoxtralError:  # the line under the recorder says why
        parts = {}
    choices = list(parts.items()) or [("Everything, mixed", EVERYTHING)]
    return gr.update(choices=choices, value=EVERYTHING, visible=len(choices) > 1)


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
        self.clip.keep_in_cache |= (
            self.clip.temp_files
        )  # copies of the examples, which are not deleted with visitors' files
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
        self.part = gr.Dropdown(
            [("Everything, mixed", EVERYTHING)],
            value=EVERYTHING,
            label="Tracks and channels",
            elem_id="part",
            visible=False,  # until a clip has several
        )
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
            unsure = gr.Checkbox(False, label="Unsure", elem_id="unsure-on", min_width=70)
            unsure.change(None, unsure, js=SHOW_UNSURE, **REDRAW_ONLY)
        self.status = gr.HTML(view.status(READY), elem_id="status", apply_default_css=False)
        self.columns = gr.HTML(
            view.draw_empty_columns(), elem_id="columns", apply_default_css=False, js_on_load=COLUMN_EVENTS_JS
        )
        self.comparison = gr.State()
        self.view_state = gr.State(ViewState())
        self.changes = gr.JSON(visible=False)  # changes to be stored in the browser's history
        self.now = gr.Textbox(visible=False)
        self.full = gr.Checkbox(visible=False)

    def _connect(self) -> None:
        controls = Controls(self.view_state, self.tags_on, self.categories, self.confidence, self.reference, self.clip)
        stored = [self.comparison, self.changes]
        drawn = [self.status, self.columns]
        self._decode = {
            "fn": self.decode,
            "inputs": [self.now, self.language, self.part, *controls],
            "outputs": [*stored, *drawn],
            "js": WITH_TIME_JS,
            "show_progress": "minimal",
            "show_progress_on": self.status,
            "api_visibility": "private",
            "trigger_mode": "always_last",  # a clip that is sent while another is decoded comes next
            **QUEUEING,
        }
        self._enqueue = {"fn": enqueue, "inputs": [*controls], "outputs": self.status, **REDRAW_ONLY}
        self._redraw = {"fn": redraw, "inputs": [self.comparison, *controls], "outputs": drawn, **REDRAW_ONLY}
        self._set_reference = {
            "fn": set_reference,
            "inputs": [self.comparison, self.reference, self.clip],
            "outputs": stored,
            **REDRAW_ONLY,
        }
        self._decode_failed = {
            "fn": decode_failed,
            "inputs": [self.full, self.comparison, *controls],
            "outputs": [*stored, *drawn],
            "js": QUEUE_WAS_FULL_JS,
            **REDRAW_ONLY,
        }
        self.clip.change(lambda clip: describe_clip(clip, self.decoder), self.clip, self.about, **REDRAW_ONLY)
        self.clip.change(offer_parts, self.clip, self.part, **REDRAW_ONLY)
        anew = [self.clip.clear, self.clip.upload, self.clip.start_recording]
        gr.on(anew, reset_status, [self.comparison, *controls], self.status, **REDRAW_ONLY)
        gr.on(anew, None, self.reference, self.reference, js=CLEAR_REFERENCE_JS, **REDRAW_ONLY)
        self.decode_after(self.go.click)
        self.decode_after(self.examples.load_input_event.then)
        set_anew = [part.change for part in (self.tags_on, self.categories, self.confidence, self.reference)]
        gr.on(set_anew, trigger_mode="always_last", **self._redraw)
        keep_after(self.reference.blur(**self._set_reference), self.changes)
        # By default Gradio drops an event while the previous one is pending; none of these may be dropped.
        often = {"trigger_mode": "multiple", **REDRAW_ONLY}
        keep_after(self.columns.edit(edit, [self.comparison, *controls], [*stored, *drawn], **often), self.changes)
        keep_after(self.columns.draft(save_draft, self.comparison, stored, **often), self.changes)
        self._serve()

    def _serve(self) -> None:
        variant = text_input("Variant", "sft", "")
        prediction = text_input("Prediction", "[sad] I was there.")
        reference = text_input("Reference", "[sad] I was here. [sighs]")
        meanings = {metric.name: metric.definition for metric in metrics.METRICS}
        parts = [text_input("Track", "2", ""), text_input("Channels", "each", "mix")]
        asked = [self.clip, variant, self.language]
        form, text = text_input("Format", "srt", "srt"), text_input("Content", "")
        every = json_output(dict[str, VariantResult])
        endpoint(self.compare, [self.clip, self.language, *parts], every, **QUEUEING)
        endpoint(self.transcribe, [*asked, *parts], json_output(VariantResult), **QUEUEING)
        endpoint(self.export, [*asked, form, *parts], text, **QUEUEING)
        endpoint(tracks, [self.clip], json_output(list[audio.TrackInfo]))
        endpoint(score, [prediction, reference], json_output(metrics.Scores, n="pairs that were scored: 1", **meanings))

    def decode_after(self, trigger: Callable) -> None:
        """Decode the clip when something happens: `button.click`, or another event's `then` or `success`."""
        decoded = trigger(**self._enqueue).then(**self._decode)
        keep_after(decoded, self.changes)
        # The reference may have been given while text was streaming.
        complete = decoded.success(**self._redraw)
        keep_after(complete.success(**self._set_reference), self.changes)
        keep_after(decoded.failure(**self._decode_failed), self.changes)

    def show_after(self, trigger: Callable, *outputs: gr.components.Component, **event: Any) -> None:
        """Show results without decoding when something happens: the event's `fn` returns the comparison, the text of
        the reference box, and `outputs`."""
        event_shown = trigger(outputs=[self.comparison, self.reference, *outputs], **event, **REDRAW_ONLY)
        event_shown.success(**self._redraw)

    def decode(self, now: str, language: str, part: str, *controls: Any) -> Iterator[tuple]:
        """Decode a clip; yields the comparison, changes to the history, the status line and the columns.

        part: see `decoder.parts_of`.  controls: see Controls.  Where a visitor has two clips decoded at once, the
        screen shows the later one; the earlier one only goes to the history.
        """
        controls = Controls(*controls)
        controls.update_filter()
        view_state, clip, reference = controls.view_state, controls.clip, controls.reference
        number = view_state.decoding = _new_id()
        yield gr.skip(), gr.skip(), view.working(DECODING if self.model.ready else LOADING), gr.skip()
        try:
            for transcripts in self.decoder.stream(clip, language, part=part or EVERYTHING):
                name, model = Path(clip).name, self.model.engine().checkpoint.name
                comparison = Comparison((Result(number, name, model, now, transcripts, reference),), clip=clip)
                changes = history.additions(*comparison.results) if comparison.done else gr.skip()
                if view_state.decoding == number:
                    yield (
                        comparison,
                        changes,
                        view.working(DECODING),
                        draw(comparison, view_state.tag_filter, reference),
                    )
                else:
                    yield gr.skip(), changes, gr.skip(), gr.skip()
        except EvoxtralError as error:
            # The columns are cleared: results of an earlier clip would look like those of this one.
            mine = view_state.decoding == number
            yield (
                None if mine else gr.skip(),
                [],
                view.error(str(error)),
                view.draw_empty_columns() if mine else gr.skip(),
            )
        finally:
            if view_state.decoding == number:
                view_state.decoding = ""

    def compare(self, audio: str, language: str = "en", track: str = "", channels: str = "mix") -> dict:
        """Transcribe a clip with every variant of the model.

        Args:
            audio: The recording: WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM.
            language: What is spoken: a two-letter code, or "auto" to detect it. Tags know English.
            track: One track of several, by its number, or "each": then the cues name theirs. Empty mixes them.
            channels: "mix", the number of one, or "each": then the cues name theirs.

        Returns:
            For each variant, by name: tagged and plain text, tags with their probabilities, segments with their times.
        """
        written = self.decoder.last(audio, language, part=f"{track}/{channels}")
        return {variant: asdict(VariantResult.of(transcript)) for variant, transcript in written.items()}

    def transcribe(
        self, audio: str, variant: str = "", language: str = "en", track: str = "", channels: str = "mix"
    ) -> dict:
        """Transcribe a clip with one variant of the model.

        Args:
            audio: The recording: WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM.
            variant: base, sft or rl, or the name of an adapter of your own; empty for the model's last.
            language: What is spoken: a two-letter code, or "auto" to detect it. Tags know English.
            track: One track of several, by its number, or "each": then the cues name theirs. Empty mixes them.
            channels: "mix", the number of one, or "each": then the cues name theirs.

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
        channels: str = "mix",
    ) -> str:
        """Transcribe a clip with one variant of the model, into a file's content.

        Args:
            audio: The recording: WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM.
            variant: base, sft or rl, or the name of an adapter of your own; empty for the model's last.
            language: What is spoken: a two-letter code, or "auto" to detect it. Tags know English.
            format: srt or vtt for subtitles, txt, json, or prompt for the tagged text in parts for ElevenLabs v3.
            track: One track of several, by its number, or "each": then the cues name theirs. Empty mixes them.
            channels: "mix", the number of one, or "each": then the cues name theirs.

        Returns:
            The content of a file of that format.
        """
        if format not in FORMATS:
            raise EvoxtralError(f"{format!r} is no format: choose one of {', '.join(FORMATS)}.")
        variant = variant or self.model.engine().variants[-1]
        return content(self.decoder.last(audio, language, (variant,), f"{track}/{channels}")[variant], format)


def tracks(audio: str) -> list:
    """List the audio tracks of a recording and their channels, by what its file states.

    Args:
        audio: The recording: WAV, FLAC, MP3, OGG/Opus, M4A/AAC or WebM.

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


def _new_id() -> str:
    """A unique id for a result; ids sort by time, also within a second."""
    return f"{time.time_ns():016x}{secrets.token_hex(4)}"


def enqueue(*controls: Any) -> str:
    """The status line when a clip joins the queue. controls: see Controls."""
    controls = Controls(*controls)
    if controls.view_state.decoding:  # the line is about that one
        return gr.skip()
    if controls.clip is None:
        return view.error(NO_CLIP)
    controls.view_state.decoding = QUEUED
    return view.waiting(WAITING)


def reset_status(comparison: Comparison | None, *controls: Any) -> str:
    """The status line after the recorder was cleared or has another clip: errors on the last clip are removed.
    controls: see Controls."""
    if Controls(*controls).view_state.decoding:
        return gr.skip()
    return redraw(comparison, *controls)[0] if comparison else view.status(READY)


def redraw(comparison: Comparison | None, *controls: Any) -> tuple:
    """The status line and the columns, drawn again without decoding. controls: see Controls."""
    controls = Controls(*controls)
    tag_filter = controls.update_filter()
    if comparison is None:
        return gr.skip(), gr.skip()
    said = controls.reference if controls.clip == comparison.clip else None
    drawn = draw(comparison, tag_filter, said)
    if controls.view_state.decoding:  # then the line is about that
        return gr.skip(), drawn
    columns = comparison.columns()
    sentence = " ".join(
        filter(None, (comparison.note, view.doubt(columns, tag_filter), view.agreement(columns, tag_filter)))
    )
    return view.verdict(sentence, any(column.reference for column in comparison.columns(said))), drawn


def keep_after(event: gr.events.Dependency, changes: gr.JSON) -> None:
    """After an event, store `changes` in the browser's history."""
    event.success(None, changes, js="changes => resultStore.apply(changes)", **REDRAW_ONLY)


def decode_failed(full: bool | None, comparison: Comparison | None, *controls: Any) -> tuple:
    """The comparison, changes to the history, status line and columns, after decoding has failed.

    full: whether the queue was full.
    """
    view_state = Controls(*controls).view_state
    if view_state.decoding == QUEUED:
        view_state.decoding = ""
    if full or comparison is None or comparison.done:
        return gr.skip(), [], view.error(QUEUE_FULL if full else DECODE_FAILED), gr.skip()
    comparison = comparison.broken_off()
    if comparison is None:
        return None, [], view.error(DECODE_FAILED), view.draw_empty_columns()
    _, columns = redraw(comparison, *controls)
    return comparison, history.additions(*comparison.results), view.error(INTERRUPTED), columns


def set_reference(comparison: Comparison | None, reference: str, clip: str | None) -> tuple:
    """The comparison and changes to the history, after a reference was entered for a decoded clip."""
    if comparison is None or len(comparison.results) != 1 or comparison.clip != clip:
        return gr.skip(), []
    if comparison.results[0].reference == reference:
        return gr.skip(), []
    after = comparison.with_result(replace(comparison.results[0], reference=reference))
    return after, history.updates(comparison.results, after.results)


def edit(event: gr.EventData, comparison: Comparison | None, *controls: Any) -> tuple:
    """The comparison, changes to the history, status line and columns, after a button of an editor was pressed."""
    if comparison is None:
        return gr.skip(), [], gr.skip(), gr.skip()
    before = comparison
    if event.draft:
        comparison = comparison.with_edit(**event.draft)
    if event.action == "undo":
        comparison = comparison.with_edit(event.column, event.result, None)
    comparison = replace(comparison, editing=event.column if event.action == "open" else "")
    return comparison, history.updates(before.results, comparison.results), *redraw(comparison, *controls)


def save_draft(draft: gr.EventData, comparison: Comparison | None) -> tuple:
    """The comparison and changes to the history, with the texts of an editor that lost the focus: they are stored even
    if the page is closed next. The editor is not drawn again."""
    if comparison is None:
        return gr.skip(), []
    after = comparison.with_edit(draft.column, draft.result, draft.texts)
    return after, history.updates(comparison.results, after.results)
