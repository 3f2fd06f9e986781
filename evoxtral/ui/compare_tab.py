"""The Compare tab: one clip in, every variant's transcript side by side, filling as it is decoded."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from evoxtral import tags
from evoxtral.errors import EvoxtralError
from evoxtral.ui import compare_events as events
from evoxtral.ui import history, status_line, theme, view
from evoxtral.ui.compare_endpoints import CompareEndpoints
from evoxtral.ui.comparison import Comparison
from evoxtral.ui.decoder import EVERYTHING, LANGUAGES, QUEUEING, Decoder, Example
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

DECODING = "Decoding…"
LOADING = "Loading the model: this happens once, in seconds if it is here, in minutes if it is downloaded first…"


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
        self.about = gr.HTML(status_line.status(events.LIMITS), elem_id="about-clip", apply_default_css=False)
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
            [("Everything", EVERYTHING)],
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
        self.status = gr.HTML(status_line.status(events.READY), elem_id="status", apply_default_css=False)
        self.columns = gr.HTML(
            view.draw_empty_columns(), elem_id="columns", apply_default_css=False, js_on_load=COLUMN_EVENTS_JS
        )
        self.comparison = gr.State()
        self.view_state = gr.State(events.ViewState())
        self.changes = gr.JSON(visible=False)  # changes to be stored in the browser's history
        self.now = gr.Textbox(visible=False)
        self.full = gr.Checkbox(visible=False)

    def _connect(self) -> None:
        controls = events.Controls(
            self.view_state, self.tags_on, self.categories, self.confidence, self.reference, self.clip
        )
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
        self._enqueue = {"fn": events.enqueue, "inputs": [*controls], "outputs": self.status, **REDRAW_ONLY}
        self._redraw = {"fn": events.redraw, "inputs": [self.comparison, *controls], "outputs": drawn, **REDRAW_ONLY}
        self._set_reference = {
            "fn": events.set_reference,
            "inputs": [self.comparison, self.reference, self.clip],
            "outputs": stored,
            **REDRAW_ONLY,
        }
        self._decode_failed = {
            "fn": events.decode_failed,
            "inputs": [self.full, self.comparison, *controls],
            "outputs": [*stored, *drawn],
            "js": QUEUE_WAS_FULL_JS,
            **REDRAW_ONLY,
        }
        self.clip.change(lambda clip: events.describe_clip(clip, self.decoder), self.clip, self.about, **REDRAW_ONLY)
        self.clip.change(events.offer_parts, self.clip, self.part, **REDRAW_ONLY)
        anew = [self.clip.clear, self.clip.upload, self.clip.start_recording]
        gr.on(anew, events.reset_status, [self.comparison, *controls], self.status, **REDRAW_ONLY)
        gr.on(anew, None, self.reference, self.reference, js=CLEAR_REFERENCE_JS, **REDRAW_ONLY)
        self.decode_after(self.go.click)
        self.decode_after(self.examples.load_input_event.then)
        set_anew = [part.change for part in (self.tags_on, self.categories, self.confidence, self.reference)]
        gr.on(set_anew, trigger_mode="always_last", **self._redraw)
        keep_after(self.reference.blur(**self._set_reference), self.changes)
        # By default Gradio drops an event while the previous one is pending; none of these may be dropped.
        often = {"trigger_mode": "multiple", **REDRAW_ONLY}
        keep_after(
            self.columns.edit(events.edit, [self.comparison, *controls], [*stored, *drawn], **often), self.changes
        )
        keep_after(self.columns.draft(events.save_draft, self.comparison, stored, **often), self.changes)
        CompareEndpoints(self.model, self.decoder).serve(self.clip, self.language)

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
        controls = events.Controls(*controls)
        controls.update_filter()
        view_state, clip, reference = controls.view_state, controls.clip, controls.reference
        number = view_state.decoding = events.new_id()
        yield gr.skip(), gr.skip(), status_line.working(DECODING if self.model.ready else LOADING), gr.skip()
        try:
            for transcripts in self.decoder.stream(clip, language, part=part or EVERYTHING):
                engine = self.model.engine()
                name, model = Path(clip).name, engine.checkpoint.name
                comparison = Comparison((Result(number, name, model, now, transcripts, reference),), clip=clip)
                changes = history.additions(*comparison.results) if comparison.done else gr.skip()
                if view_state.decoding == number:
                    order = status_line.following(comparison.columns(), engine.shown_first())
                    yield (
                        comparison,
                        changes,
                        status_line.working(order or DECODING),
                        events.draw(comparison, view_state.tag_filter, reference),
                    )
                else:
                    yield gr.skip(), changes, gr.skip(), gr.skip()
        except EvoxtralError as error:
            # The columns are cleared: results of an earlier clip would look like those of this one.
            mine = view_state.decoding == number
            yield (
                None if mine else gr.skip(),
                [],
                status_line.error(str(error)),
                view.draw_empty_columns() if mine else gr.skip(),
            )
        finally:
            if view_state.decoding == number:
                view_state.decoding = ""


def keep_after(event: gr.events.Dependency, changes: gr.JSON) -> None:
    """After an event, store `changes` in the browser's history."""
    event.success(None, changes, js="changes => resultStore.apply(changes)", **REDRAW_ONLY)
