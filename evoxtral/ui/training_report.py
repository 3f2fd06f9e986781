"""The training report as HTML: the losses of each stage, and the rewards of RAFT."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from evoxtral.ui import wording
from evoxtral.ui.charts import Axis, Series, histogram, legend, line_chart
from evoxtral.ui.layout import note, section, side_by_side
from evoxtral.ui.results_file import percent, stated_origin

STAGES = {
    "pretrain": "Base: pretraining",
    "sft": "SFT: fine-tuning on tagged text",
    "rl": "RL: RAFT on the best samples",
}
# The series of a stage's log that are drawn.
LOSSES = {
    "loss": Series("training clips", 1),
    "validation_loss": Series("validation clips", 2, dashed=True),
    "transcribe": Series("transcription", 2),
    "phonemes": Series("phonemes heard by the encoder", 1),
    "letters": Series("letters, before the phonemes", 1, dashed=True),
    "describe": Series("tags and stress", 0),
}
SAMPLED, CURATED = Series("all samples", 0), Series("learned from", 2)
LEFT_OUT = 0.01  # share of the lowest rewards that the chart may leave out


def stage_chart(stage: Mapping) -> Markup:
    """The losses of one stage over its steps."""
    lines = [(series, stage["series"][name]) for name, series in LOSSES.items() if name in stage["series"]]
    steps = Axis.fitting("Step", [0, stage["steps"]], parts=2)  # their labels stand side by side
    words = [
        f"{series.name} {' to '.join(f'{loss:.2f}' for _, loss in _first_and_last(points))}" for series, points in lines
    ]
    losses = Axis.fitting("Loss, nats", [value for _, points in lines for _, value in points], ratio=20)
    summary = f"Loss over {stage['steps']:,} steps: {'; '.join(words)}."
    about = f"{stage['steps']:,} steps in {_duration(stage['seconds'])}{stated_origin(stage)}."
    if stage.get("start"):
        about += " They went on from the base of earlier runs."
    about += _on_validation(stage["series"].get("wer"))
    if len(lines) > 2:
        about += (
            " Each curve is one task's loss, averaged over all steps: a task that takes part in every fourth step only"
            " is drawn at a quarter of its loss."
        )
    return note(about) + legend((series for series, _ in lines), lines=True) + line_chart(summary, steps, losses, lines)


def _on_validation(wer: Sequence[tuple[int, float]] | None) -> str:
    if not wer:
        return ""
    found = ", ".join(f"{percent(rate)} at step {step:,}" for step, rate in _first_and_last(wer))
    return f" WER on validation clips: {found}."


def _first_and_last(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """The first and last point of a curve; of a single point, that one."""
    return [*points[:1], *points[1:][-1:]]


def _duration(seconds: float) -> str:
    """4530 → "1 h 16 min"."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else f"{seconds} s"


def rewards_chart(raft: Mapping) -> Markup:
    """Histogram of RAFT's rewards before and after curation, in shares of each, without its empty lower end."""
    shares = {
        series: [count / sum(counts) for count in counts]
        for series, counts in ((SAMPLED, raft["histogram"]["sampled"]), (CURATED, raft["histogram"]["curated"]))
    }
    parts = len(shares[SAMPLED])
    tenth = parts // 10  # one tick each; the axis has at least two
    start = max(i for i in range(0, parts - tenth, tenth) if all(sum(s[:i]) <= LEFT_OUT for s in shares.values()))
    about = (
        f"{raft['samples']} samples of each of {raft['clips']:,} clips: mean reward {raft['mean_reward']:.2f},"
        f" {wording.percent(raft['without_mistake'])} of them without a mistake{stated_origin(raft)}."
        f" Learned from: the best of each clip, where it got {raft['threshold']:.2f} or more:"
        f" {raft['kept']:,} clips, mean {raft['mean_curated_reward']:.2f}{_supervised(raft)}."
    )
    if below := sum(raft["histogram"]["sampled"][:start]):
        about += f" Not drawn: {wording.counted(below, 'sample')} with less than {start / parts:g}."
    bars = [(series, [100 * share for share in found[start:]]) for series, found in shares.items()]
    picture = histogram(
        f"Distribution of rewards. {about}",
        Axis("Reward", start / parts, 1, [(i / parts, f"{i / parts:g}") for i in range(parts, start - 1, -tenth)]),
        Axis.fitting("Share, %", [0, *(height for _, heights in bars for height in heights)]),
        bars,
    )
    return note(about) + legend(series for series, _ in bars) + picture


def _supervised(raft: Mapping) -> str:
    return f"; and {raft['supervised']:,} other clips, with their references" if raft["supervised"] else ""


def training(curves: Mapping) -> Markup:
    """The curves of all stages of the run that trained the scale model."""
    cards = [section(STAGES[name], stage_chart(curves["stages"][name])) for name in STAGES if name in curves["stages"]]
    cards.append(section("RAFT: rewards before and after curation", rewards_chart(curves["raft"])))
    return side_by_side(cards)
