"""The page: its head, its tabs, and how it is launched."""

from pathlib import Path

import gradio as gr
import spaces
from markupsafe import Markup

from evoxtral import audio
from evoxtral.errors import CheckpointError
from evoxtral.ui import history, theme
from evoxtral.ui.compare_tab import REDRAW_ONLY, CompareTab
from evoxtral.ui.decoder import Example
from evoxtral.ui.endpoints import answer_in_json
from evoxtral.ui.history_tab import HistoryTab, not_stored_notice
from evoxtral.ui.metrics_tab import metrics_tab
from evoxtral.ui.model import Model, description
from evoxtral.ui.speak_tab import SpeakTab

# Seconds: visitors' files are deleted an hour after upload; the check runs every ten minutes.
CLEAN_EVERY, CLEAN_AFTER = 600, 3600
POLL_EVERY = 2.0  # s between two checks of how far the model has loaded
# How many visitors may wait in the queue; the next one is told that it is full.
QUEUE = 24

SCRIPT = Path(__file__).with_name("page.js")

HEAD = Markup(
    '<div class="ev-head"><h1>Evo<b>x</b>tral</h1><p>Speech in, expressive transcript out.</p>'
    '<p class="ev-model">{}</p></div>'
)


def script() -> str:
    """The script that runs in the browser."""
    limits = f"const MAX_RESULTS = {history.MAX_RESULTS}, MAX_CHARACTERS = {history.MAX_CHARACTERS};"
    return f"<script>{limits}\n{SCRIPT.read_text(encoding='utf-8')}</script>"


def head(model: Model) -> tuple:
    """The page's head, which names the model once it is loaded; the timer, which then stops; the button of an offer."""
    if not model.ready:
        return HEAD.format(model.progress), gr.skip(), gr.skip()
    engine = model.engine()
    title, understands = description(engine.checkpoint)
    understands += f"; weights in {engine.precision.weights} ({engine.precision.reason})"
    running = Markup("Running <b>{}</b>: {}. {}").format(title, understands, model.coming)
    label, _ = model.offered() or ("", "")
    return HEAD.format(running), gr.Timer(active=not model.settled), gr.Button(label, visible=bool(label))


def take_offer(model: Model) -> gr.Timer:
    """Load the model that is offered; the timer shows how far it is."""
    if offered := model.offered():
        model.switch(offered[1])
    return gr.Timer(active=True)


def build(model: Model, examples: Path) -> gr.Blocks:
    """Build the page for one model. examples: folder with `examples.json` and its clips."""
    with gr.Blocks(
        title="Evoxtral", fill_width=True, analytics_enabled=False, delete_cache=(CLEAN_EVERY, CLEAN_AFTER)
    ) as page:
        top = gr.HTML(HEAD.format(model.progress), apply_default_css=False)
        offer = gr.Button(visible=False, size="sm", variant="secondary", elem_id="offer")
        notice = not_stored_notice()
        with gr.Tabs() as tabs:
            with gr.Tab("Compare", id="compare"):
                compare = CompareTab(model, Example.read(examples))
            with gr.Tab("Speak", id="speak"):
                SpeakTab(compare, tabs)
            with gr.Tab("History", id="history") as tab:
                HistoryTab(compare, tabs, tab, notice)
            with gr.Tab("Metrics", id="metrics"):
                metrics_tab()
        timer = gr.Timer(POLL_EVERY)
        gr.on([page.load, timer.tick], lambda: head(model), outputs=[top, timer, offer], **REDRAW_ONLY)
        offer.click(lambda: take_offer(model), outputs=timer, **REDRAW_ONLY)
    return page.queue(max_size=QUEUE)


def serve(page: gr.Blocks, model: Model) -> None:
    """Serve the page until interrupted; host and port come from Gradio's own environment variables."""
    if spaces.config.Config.zero_gpu:
        _load(model)  # ZeroGPU packs the weights that are loaded when the page is launched
    page.launch(
        theme=theme.theme(),
        css=theme.css(),
        head=script(),
        max_file_size=f"{audio.MAX_MEGABYTES:.0f}mb",
        footer_links=["api"],
        mcp_server=True,
        run_history=False,
        ssr_mode=False,  # a Space with Node would switch it on; the page is the same everywhere
        prevent_thread_lock=True,
        # Gradio would ask for the page once more and give up where that takes 3 s, as on a busy machine. That the
        # server answers it has seen before, without a limit.
        _frontend=False,
    )
    answer_in_json(page.mcp_server_obj)
    _load(model)  # elsewhere the weights are loaded while the page is already served
    page.block_thread()


def _load(model: Model) -> None:
    """Load the model, or end the process with one sentence instead of a traceback."""
    try:
        model.engine()
    except CheckpointError as error:
        raise SystemExit(str(error)) from None
