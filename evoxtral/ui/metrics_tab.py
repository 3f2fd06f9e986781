"""The Metrics tab: results of Evoxtral-Bench, curves of the training run, and a report on a visitor's own file."""

import json
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from evoxtral import metrics
from evoxtral.errors import CheckpointError, EvoxtralError
from evoxtral.metrics import Pair
from evoxtral.ui import ladders, reliability, report, status_line, training_report, wording
from evoxtral.ui.layout import section
from evoxtral.ui.results_file import Results

RESULTS = Path(__file__).parents[1] / "assets" / "results"

# Limits on an uploaded file, so that it takes a shared machine a few seconds only.
MAX_BYTES = 2_000_000
MAX_PAIRS = 5_000
MAX_CHARACTERS = 20_000  # of one text
MAX_TAGS = 300  # different ones
LIMITS = f"At most {MAX_BYTES // 1_000_000} MB and {MAX_PAIRS:,} lines"
NO_LIMIT = "`python -m evoxtral score FILE` has no such limit."

FILE_FORMAT = Markup(
    "<p>One JSON object a line with two tagged texts, as <code>python -m evoxtral score</code> takes them too:</p>"
    '<pre class="ev-lines" tabindex="0">{}\n{}</pre><p>{}.</p>'
).format(
    '{"prediction": "[sighs] I told you.", "reference": "[sighs] I TOLD you."}',
    '{"prediction": "Never mind.", "reference": "Never mind. [laughs]"}',
    LIMITS,
)
HINT = "Upload a file to see its report."


def read(path: Path, name: str) -> list[Pair]:
    """The pairs of a visitor's file, of bounded size. Raises EvoxtralError."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise EvoxtralError(
            f"{name} has {size / 1e6:.1f} MB and at most {MAX_BYTES / 1e6:.0f} are scored here; {NO_LIMIT}"
        )
    pairs = metrics.parse_pairs(path.read_bytes(), name)
    if len(pairs) > MAX_PAIRS:
        raise EvoxtralError(f"{name} has {len(pairs):,} pairs and at most {MAX_PAIRS:,} are scored here; {NO_LIMIT}")
    longest = max(len(text) for pair in pairs for text in pair)
    if longest > MAX_CHARACTERS:
        raise EvoxtralError(
            f"{name} has a text of {longest:,} characters and at most {MAX_CHARACTERS:,} are scored here; {NO_LIMIT}"
        )
    return pairs


def score_file(path: str) -> dict:
    """Every score of a visitor's file, as `metrics.summary` has it. Raises EvoxtralError."""
    name = Path(path).name
    found = metrics.score(read(Path(path), name), normalised=True)
    if len(found.per_tag) > MAX_TAGS:
        raise EvoxtralError(
            f"{name} has {len(found.per_tag):,} different tags and at most {MAX_TAGS} are scored here; {NO_LIMIT}"
        )
    return metrics.summary(found)


def score(path: str | None) -> tuple:
    """The status line and the report for an upload; the last report stays until another file is scored."""
    if path is None:
        return status_line.status(HINT), gr.skip()
    try:
        entry = score_file(path)
    except EvoxtralError as error:
        return status_line.error(str(error)), gr.skip()
    scored = status_line.status(f"{wording.counted(entry['n'], 'pair')} scored.")
    return scored, report.upload_report(entry, Path(path).name)


class ScoreYourOwn:
    """Lays the upload and its report out and connects them."""

    def __init__(self) -> None:
        with gr.Row():
            with gr.Column(min_width=320):
                gr.HTML(section("Score your own", FILE_FORMAT), apply_default_css=False)
            with gr.Column(min_width=320):
                self.file = gr.File(
                    label="Predictions and references, JSON lines",
                    file_types=[".jsonl", ".json", ".txt"],
                    height=150,
                    elem_id="pairs",
                )
                self.status = gr.HTML(status_line.status(HINT), elem_id="score-status", apply_default_css=False)
        self.report = gr.HTML(elem_id="own-report", apply_default_css=False)
        self.file.change(score, self.file, [self.status, self.report], show_progress="hidden", api_visibility="private")


def metrics_tab(folder: Path = RESULTS) -> None:
    """Lays the tab out, inside the Blocks that is being built. The published figures ship with it."""
    published, measured = (Results.read(folder / f"{name}.json") for name in ("published", "measured"))
    if published is None:
        raise CheckpointError(f"{folder / 'published.json'} is missing from this installation; install it again.")
    curves, rungs = folder / "training.json", folder / "ladders.json"
    with gr.Tabs():
        with gr.Tab("Results"):
            gr.HTML(report.results_page(published, measured), elem_id="report", apply_default_css=False)
        content = json.loads(rungs.read_text(encoding="utf-8")) if rungs.is_file() else {}
        if content:
            with gr.Tab("Ladders"):
                gr.HTML(ladders.page(content), elem_id="ladders", apply_default_css=False)
                if content.get("calibration"):  # no tab of its own: a phone has room for four
                    gr.HTML(reliability.page(content), elem_id="reliability", apply_default_css=False)
        if curves.is_file():
            with gr.Tab("Training"):
                logged = json.loads(curves.read_text(encoding="utf-8"))
                gr.HTML(training_report.training(logged), elem_id="training", apply_default_css=False)
        with gr.Tab("Score"):
            ScoreYourOwn()
