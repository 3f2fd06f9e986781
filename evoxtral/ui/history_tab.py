"""The History tab: results of earlier clips, to be shown again, compared and exported."""

import base64
from collections.abc import Callable

import gradio as gr
from markupsafe import Markup

from evoxtral.ui import history, status_line, view, wording
from evoxtral.ui.compare_tab import REDRAW_ONLY, CompareTab
from evoxtral.ui.comparison import OTHER_CLIP, Comparison
from evoxtral.ui.history import Result

EMPTY = (
    "Nothing yet. Transcribe a clip in Compare: what it gives is listed here, "
    "to be shown again, compared and exported together."
)
LIMITS = (
    f"Texts only, no audio, and only in this browser. The newest {history.MAX_RESULTS} results have room, "
    f"or {history.MAX_CHARACTERS // 1_000_000} MB of them: the oldest go first."
)
MAX_NAME = 40  # characters, in the status line
DELETE_JS = 'chosen => { confirm("Delete the chosen results?") && resultStore.remove(chosen); }'
CLEAR_JS = '() => { confirm("Forget every result in this list?") && resultStore.remove(); }'
# Enables the buttons that need a chosen result.
ENABLE_BUTTONS_JS = 'chosen => Array(2).fill({interactive: chosen.length > 0, __type__: "update"})'
NOT_STORED = (
    "This browser does not store results for this page: they stay until it is closed or reloaded, so export them."
)
ON_CHANGE_JS = """document.addEventListener("resultsChanged", () => {
  element.querySelector("div").hidden = resultStore.isComplete();
  trigger("change");
});"""
# Replaces the first input by the results in the browser's storage.
LOAD_RESULTS_JS = "(_, ...given) => [resultStore.all(), ...given]"


def not_stored_notice() -> gr.HTML:
    """A warning that the browser does not store results, hidden while it does. Its change event fires whenever the
    history changes, in any tab of the browser."""
    return gr.HTML(
        Markup("<div hidden>{}</div>").format(status_line.error(NOT_STORED)),
        elem_id="not-stored",
        apply_default_css=False,
        js_on_load=ON_CHANGE_JS,
    )


class HistoryTab:
    """Lays the tab out and connects it, also to the Compare tab that shows its results."""

    def __init__(self, compare: CompareTab, tabs: gr.Tabs, tab: gr.Tab, notice: gr.HTML):
        self.status = gr.HTML(status_line.status(EMPTY), elem_id="history-status", apply_default_css=False)
        with gr.Row(elem_classes="ev-history", visible=False) as self.row:
            with gr.Column(scale=3, min_width=320):
                self.chosen = gr.CheckboxGroup([], label="Results, newest first", elem_id="results")
            with gr.Column(scale=1, min_width=280):
                self.variant = gr.Dropdown([], label="Where several are compared, show of each", elem_id="which")
                self.show = gr.Button("Show in Compare", variant="primary", elem_id="show-again", interactive=False)
                self.downloads = gr.HTML(elem_id="downloads", apply_default_css=False)
                with gr.Row():
                    self.delete = gr.Button("Delete chosen", elem_id="delete-chosen", min_width=120, interactive=False)
                    self.clear = gr.Button("Clear history", elem_id="clear-history", min_width=120)
        self.stored = gr.JSON(visible=False)
        self._connect(compare, tabs, [tab.select, notice.change])

    def _connect(self, compare: CompareTab, tabs: gr.Tabs, changed: list[Callable]) -> None:
        stored_and_chosen = [self.stored, self.chosen]
        recalled = {"js": LOAD_RESULTS_JS, **REDRAW_ONLY}
        lists = [self.status, self.row, self.chosen, self.variant]
        files = {"fn": downloads, "inputs": stored_and_chosen, "outputs": self.downloads, **recalled}
        relisted = gr.on(
            changed, list_results, [*stored_and_chosen, self.variant], lists, trigger_mode="always_last", **recalled
        )
        relisted.then(**files)
        self.chosen.change(**files)
        self.chosen.change(None, self.chosen, [self.show, self.delete], js=ENABLE_BUTTONS_JS, **REDRAW_ONLY)
        picked = {
            "fn": chosen_results,
            "inputs": [*stored_and_chosen, self.variant, compare.clip],
            "js": LOAD_RESULTS_JS,
        }
        compare.show_after(self.show.click, tabs, **picked)
        self.delete.click(None, self.chosen, js=DELETE_JS, **REDRAW_ONLY)
        self.clear.click(None, js=CLEAR_JS, **REDRAW_ONLY)


def list_results(stored: object, chosen: list[str], variant: str | None) -> tuple:
    """The status line, the visibility of the list, the list, and the variants to choose from.

    The ticked results are only set if one of them was deleted: the visitor may have ticked more in the meantime.
    """
    results = history.parse_stored(stored)
    entries = [(result_label(result), result.id) for result in reversed(results)]
    still = [number for _, number in entries if number in chosen]
    variants = list(dict.fromkeys(variant for result in results for variant in result.written))
    titles = [(view.heading(name).title, name) for name in variants]
    return (
        status_line.status(LIMITS if results else EMPTY),
        gr.Row(visible=bool(results)),
        gr.CheckboxGroup(entries) if len(still) == len(chosen) else gr.CheckboxGroup(entries, value=still),
        gr.Dropdown(titles) if variant in variants else gr.Dropdown(titles, value=variants[-1] if variants else None),
    )


def result_label(result: Result) -> str:
    """A result's label in three lines: its file; duration, time, model and variants; the beginning of its last text."""
    names = [view.heading(name).title + " (edited)" * (name in result.edits) for name in result.written]
    about = (wording.clip_length(result.duration).rstrip("."), result.time, result.model, ", ".join(names))
    *_, text = (transcript.text for transcript in result.transcripts.values())
    begins = text if len(text) <= 90 else f"{text[:90].rstrip()}…"
    return f"{result.file}\n{' · '.join(about)}\n{begins or 'No speech was found in this clip.'}"


def _selected(stored: object, chosen: list[str]) -> tuple[Result, ...]:
    return tuple(result for result in history.parse_stored(stored) if result.id in chosen)


def downloads(stored: object, chosen: list[str]) -> Markup:
    """Download links for the chosen results, or for all where none is chosen; the links contain the data."""
    picked = _selected(stored, chosen)
    results = picked or history.parse_stored(stored)
    listing, packed = history.to_json(results), base64.b64encode(history.to_zip(results)).decode()
    which = f"Download the {wording.counted(len(picked), 'chosen result')}" if picked else "Download all results"
    json_mime, zip_mime = f"{view.KINDS['json']};charset=utf-8", "application/zip;base64"
    return Markup('<p class="ev-links">{}: {}{}</p>').format(
        which,
        view.download("evoxtral.json", json_mime, listing, "JSON", "One list, as the command line writes it"),
        view.download("evoxtral.zip", zip_mime, packed, "ZIP", "TXT, JSON, SRT and VTT of each"),
    )


def chosen_results(stored: object, chosen: list[str], variant: str, clip: str | None) -> tuple:
    """The comparison to show, the text of the reference box, and the open tab.

    clip: path of the clip in the recorder; where there is one, the reference box still belongs to it.
    """
    results = _selected(stored, chosen)
    if not results:  # another tab has just deleted them
        return gr.skip(), gr.skip(), gr.skip()
    note = f"Earlier: {results[0].file[:MAX_NAME]}." if len(results) == 1 else "Earlier results."
    if not any(variant in result.written for result in results):
        *_, variant = results[0].written
    tab = gr.Tabs(selected="compare")
    if clip is not None:
        return Comparison(results, variant, note=note, clip=OTHER_CLIP), gr.skip(), tab
    references = {result.reference for result in results}
    return Comparison(results, variant, note=note), references.pop() if len(references) == 1 else "", tab
