"""What the events of Compare do: functions of a comparison and of the controls, without the page around them."""

import secrets
import time
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import gradio as gr

from evoxtral import audio, metrics
from evoxtral.errors import EvoxtralError
from evoxtral.ui import history, status_line, view, wording
from evoxtral.ui.comparison import Comparison
from evoxtral.ui.decoder import EVERYTHING, NO_CLIP, Decoder, parts_of

READY = "Record, upload or pick a clip, and see what each model hears in it."
LIMITS = f"Up to {audio.MAX_SECONDS / 60:.0f} minutes and {audio.MAX_MEGABYTES:.0f} MB, in any common format."
WAITING = "Your clip waits for its turn…"
# A server error, or no GPU available: Gradio says which in a message that disappears after a while.
DECODE_FAILED = "This clip was not transcribed. It is still here: press Compare again in a moment."
INTERRUPTED = "This broke off, and what was written is kept. Your clip is still here: press Compare again in a moment."
QUEUE_FULL = "The house is full, no more visitors can wait. Your clip is still here: press Compare again in a minute."

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
    return {name: "–" if value is None else wording.percent(value) for name, value in values.items()}


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
        return status_line.status(LIMITS)
    try:
        (recording,) = decoder.read(clip)
    except EvoxtralError as error:
        return status_line.error(str(error))
    waveform = recording.waveform
    if audio.is_silent(waveform):
        return status_line.error("This clip is silent: there is nothing to transcribe.")
    segments = decoder.model.engine().segments(waveform) if decoder.model.ready else []
    length = wording.clip_length(recording.duration, [segment.end - segment.start for segment in segments])
    missing = f" {wording.incomplete(recording.incomplete)}" if recording.incomplete else ""
    return status_line.status(length + missing)


def offer_parts(clip: str | None) -> dict:
    """The chooser of tracks and channels: shown where a clip has several."""
    try:
        parts = parts_of(clip)
    except EvoxtralError:  # the line under the recorder says why
        parts = {}
    choices = list(parts.items()) or [("Everything", EVERYTHING)]
    return gr.update(choices=choices, value=EVERYTHING, visible=len(choices) > 1)


def new_id() -> str:
    """A unique id for a result; ids sort by time, also within a second."""
    return f"{time.time_ns():016x}{secrets.token_hex(4)}"


def enqueue(*controls: Any) -> str:
    """The status line when a clip joins the queue. controls: see Controls."""
    controls = Controls(*controls)
    if controls.view_state.decoding:  # the line is about that one
        return gr.skip()
    if controls.clip is None:
        return status_line.error(NO_CLIP)
    controls.view_state.decoding = QUEUED
    return status_line.waiting(WAITING)


def reset_status(comparison: Comparison | None, *controls: Any) -> str:
    """The status line after the recorder was cleared or has another clip: errors on the last clip are removed.
    controls: see Controls."""
    if Controls(*controls).view_state.decoding:
        return gr.skip()
    return redraw(comparison, *controls)[0] if comparison else status_line.status(READY)


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
    sentences = comparison.note, status_line.doubt(columns, tag_filter), status_line.agreement(columns, tag_filter)
    sentence = " ".join(filter(None, sentences))
    return status_line.verdict(sentence, any(column.reference for column in comparison.columns(said))), drawn


def decode_failed(full: bool | None, comparison: Comparison | None, *controls: Any) -> tuple:
    """The comparison, changes to the history, status line and columns, after decoding has failed.

    full: whether the queue was full.
    """
    view_state = Controls(*controls).view_state
    if view_state.decoding == QUEUED:
        view_state.decoding = ""
    if full or comparison is None or comparison.done:
        return gr.skip(), [], status_line.error(QUEUE_FULL if full else DECODE_FAILED), gr.skip()
    comparison = comparison.broken_off()
    if comparison is None:
        return None, [], status_line.error(DECODE_FAILED), view.draw_empty_columns()
    _, columns = redraw(comparison, *controls)
    return comparison, history.additions(*comparison.results), status_line.error(INTERRUPTED), columns


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
