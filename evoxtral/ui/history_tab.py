"""The History tab: what earlier clips gave, to be shown again, compared and exported together."""

import base64
from collections.abc import Callable

import gradio as gr
from markupsafe import Markup

from evoxtral.ui import history, view
from evoxtral.ui.compare import ELSEWHERE, QUIETLY, CompareTab, Shown
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
DELETE = 'chosen => { confirm("Delete the chosen results?") && kept.forget(chosen); }'
CLEAR = '() => { confirm("Forget every result in this list?") && kept.forget(); }'
# Whether the buttons for what is chosen can work.
USABLE = 'chosen => Array(2).fill({interactive: chosen.length > 0, __type__: "update"})'
UNKEPT = "This browser does not store results for this page: they stay until it is closed or reloaded, so export them."
CHANGING = """document.addEventListener("kept", () => {
  element.querySelector("div").hidden = kept.isWhole();
  trigger("change");
});"""
# The history, from where it lives, in place of the first input.
RECALLED = "(_, ...given) => [kept.all(), ...given]"


def unkept_notice() -> gr.HTML:
    """The sentence on results that the browser does not keep, unseen while it keeps them all. It changes whenever the
    history does, whichever tab of the browser has written."""
    return gr.HTML(
        Markup("<div hidden>{}</div>").format(view.alarm(UNKEPT)),
        elem_id="unkept",
        apply_default_css=False,
        js_on_load=CHANGING,
    )


class HistoryTab:
    """Lays the tab out and connects it, also to the Compare tab that shows its results."""

    def __init__(self, compare: CompareTab, tabs: gr.Tabs, tab: gr.Tab, notice: gr.HTML):
        self.status = gr.HTML(view.status(EMPTY), elem_id="history-status", apply_default_css=False)
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
        self.kept = gr.JSON(visible=False)
        self._connect(compare, tabs, [tab.select, notice.change])

    def _connect(self, compare: CompareTab, tabs: gr.Tabs, changed: list[Callable]) -> None:
        known = [self.kept, self.chosen]
        recalled = {"js": RECALLED, **QUIETLY}
        lists = [self.status, self.row, self.chosen, self.variant]
        files = {"fn": downloads, "inputs": known, "outputs": self.downloads, **recalled}
        relisted = gr.on(changed, listed, [*known, self.variant], lists, trigger_mode="always_last", **recalled)
        relisted.then(**files)
        self.chosen.change(**files)
        self.chosen.change(None, self.chosen, [self.show, self.delete], js=USABLE, **QUIETLY)
        picked = {"fn": chosen_results, "inputs": [*known, self.variant, compare.clip], "js": RECALLED}
        compare.show_after(self.show.click, tabs, **picked)
        self.delete.click(None, self.chosen, js=DELETE, **QUIETLY)
        self.clear.click(None, js=CLEAR, **QUIETLY)


def listed(kept: object, chosen: list[str], variant: str | None) -> tuple:
    """The status line, whether there is a list, the list, and the variants to choose from.

    What is ticked is set anew only where a result of it is gone: more may have been ticked in the meantime.
    """
    results = history.recall(kept)
    entries = [(entry(result), result.id) for result in reversed(results)]
    still = [number for _, number in entries if number in chosen]
    variants = list(dict.fromkeys(variant for result in results for variant in result.written))
    titles = [(view.heading(name).title, name) for name in variants]
    return (
        view.status(LIMITS if results else EMPTY),
        gr.Row(visible=bool(results)),
        gr.CheckboxGroup(entries) if len(still) == len(chosen) else gr.CheckboxGroup(entries, value=still),
        gr.Dropdown(titles) if variant in variants else gr.Dropdown(titles, value=variants[-1] if variants else None),
    )


def entry(result: Result) -> str:
    """A result in the list, in three lines: its clip, how it came about, and how its last text begins."""
    names = [view.heading(name).title + " (edited)" * (name in result.edits) for name in result.written]
    about = (view.clip_length(result.duration).rstrip("."), result.time, result.model, ", ".join(names))
    *_, text = (transcript.text for transcript in result.transcripts.values())
    begins = text if len(text) <= 90 else f"{text[:90].rstrip()}…"
    return f"{result.file}\n{' · '.join(about)}\n{begins or 'No speech was found in this clip.'}"


def _picked(kept: object, chosen: list[str]) -> tuple[Result, ...]:
    return tuple(result for result in history.recall(kept) if result.id in chosen)


def downloads(kept: object, chosen: list[str]) -> Markup:
    """The chosen results as files, or all where none is chosen; the links carry their data."""
    picked = _picked(kept, chosen)
    results = picked or history.recall(kept)
    listing, packed = history.to_json(results), base64.b64encode(history.to_zip(results)).decode()
    which = f"Download the {view.counted(len(picked), 'chosen result')}" if picked else "Download all results"
    json_mime, zip_mime = f"{view.KINDS['json']};charset=utf-8", "application/zip;base64"
    return Markup('<p class="ev-links">{}: {}{}</p>').format(
        which,
        view.download("evoxtral.json", json_mime, listing, "JSON", "One list, as the command line writes it"),
        view.download("evoxtral.zip", zip_mime, packed, "ZIP", "TXT, JSON, SRT and VTT of each"),
    )


def chosen_results(kept: object, chosen: list[str], variant: str, clip: str | None) -> tuple:
    """What is to be on screen, what stands in the box for the reference, and the open tab.

    clip: what lies in the recorder; then the box stays that one's.
    """
    results = _picked(kept, chosen)
    if not results:  # another tab has just deleted them, and the list is about to show it
        return gr.skip(), gr.skip(), gr.skip()
    note = f"Earlier: {results[0].file[:MAX_NAME]}." if len(results) == 1 else "Earlier results."
    if not any(variant in result.written for result in results):
        *_, variant = results[0].written
    tab = gr.Tabs(selected="compare")
    if clip is not None:
        return Shown(results, variant, note=note, clip=ELSEWHERE), gr.skip(), tab
    references = {result.reference for result in results}
    return Shown(results, variant, note=note), references.pop() if len(references) == 1 else "", tab
