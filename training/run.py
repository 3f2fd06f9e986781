"""The pipeline: `python training/run.py` takes the scale base through data, SFT, RAFT and bench.

Each stage is file in, file out, under runs/NAME/. A finished stage is skipped, an interrupted one resumes, and a run of
another recipe is never overwritten.
"""

import argparse
import dataclasses
import json
import logging
import os
import shutil
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Python puts training/ itself first on the path: there `evoxtral` is missing and our names would shadow PyPI's.
    sys.path[0] = str(ROOT)

from evoxtral.errors import RecipeError  # noqa: E402
from evoxtral.model import checkpoints, hub  # noqa: E402
from evoxtral.speech import elevenlabs  # noqa: E402
from training import (  # noqa: E402
    bank,
    bench,
    confidence,
    dataset,
    distillation,
    evaluate_people,
    loop,
    policy,
    pretrain,
    raft,
    recipe,
    sft,
    tracking,
)
from training.corpora import clips as corpus_clips  # noqa: E402
from training.corpora import making, reading, writing  # noqa: E402
from training.dataset import Clips  # noqa: E402
from training.exit_codes import exit_code  # noqa: E402
from training.recipe import Recipe  # noqa: E402

log = logging.getLogger("training")

STAGES = ("pretrain", "data", "sft", "raft", "bench")
DEFAULT_STAGES = STAGES[1:]
SHARED_STAGES = ("pretrain", "sft", "raft")  # of launched processes; the first one alone does the others
SHOWN = 10  # predictions of a tracked run at each evaluation
VOICED_STAGES = ("bank", "distil", *STAGES, "people")  # of a recipe with natural voices
MORE = (
    f"Recipes: {', '.join(recipe.known())}. The base from nothing: --stages {','.join(STAGES)} "
    "under another --name. The committed base, trained further: --recipe tiny-further --stages pretrain. With natural "
    "voices, all of it: --recipe people."
)


class Run:
    """Where everything of a run lies. `base` is made by the pretrain stage, or is a copy of the recipe's."""

    def __init__(self, folder: Path, settings: Recipe, tracked: bool = False, budget: float = 0.0) -> None:
        self.folder, self.recipe, self.shown, self.budget = folder, settings, SHOWN if tracked else 0, budget
        self.data, self.base, self.sft, self.rl = (
            folder / "data",
            folder / "base",
            folder / "sft",
            folder / "rl",
        )
        self.distilled = folder / distillation.FOLDER
        self.samples, self.results = folder / "samples.jsonl", folder / "results.json"

    def claim(self) -> None:
        """Make the folder, or find that it holds this very recipe; go on in the precision that it was begun in.

        Raises RecipeError for another one's.
        """
        note, precision = self.folder / "recipe.json", self.folder / "precision.txt"
        mine = json.dumps(dataclasses.asdict(self.recipe), indent=2)
        if note.exists():
            if not recipe.same(note.read_text(encoding="utf-8"), self.recipe):
                raise RecipeError(f"{self.folder} holds a run of another recipe: choose another --name, or remove it.")
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise RecipeError(f"{self.folder} exists and is not a run: choose another --name.")
        else:
            with checkpoints.atomic_folder(self.folder) as out:
                (out / note.name).write_text(mine, encoding="utf-8")
                (out / precision.name).write_text(loop.cpu_precision(), encoding="utf-8")
        if precision.exists():
            os.environ[loop.PRECISION] = precision.read_text(encoding="utf-8")


def run_bank(run: Run) -> None:
    """Speak plain sentences in natural voices into the user's cache, once for all runs."""
    for config in run.recipe.banks:
        bank.build(config)


def _pretraining_clips(run: Run) -> tuple[Clips, Clips]:
    """The parts of the pretraining data as one, and validation clips; what is not there yet is spoken."""
    parts = [dataset.build(run.data, f"pretrain{k}", config) for k, config in enumerate(run.recipe.pretraining_data)]
    return Clips.joined(parts), dataset.build(run.data, "validation", run.recipe.validation)


def run_distil(run: Run) -> None:
    """The audio tower of the base to start from learns from a larger encoder, on the pretraining parts."""
    config = run.recipe.distillation
    if not config.steps or run.distilled.exists():
        return
    clips, validation = _pretraining_clips(run)
    distillation.prepare(clips, run.data)
    start = hub.fetch(checkpoints.resolve(run.recipe.pretrain.start).base)
    loop.parallel(distillation.distil, run.folder, start, clips, validation, config, processes=loop.cores())


def run_pretrain(run: Run) -> None:
    """The base, from nothing, from the recipe's start, or from what was distilled: speak the pretraining parts, then
    train on all of them.
    """
    if run.base.exists():
        if not (run.folder / "start").exists():
            raise RecipeError(f"{run.folder} already has a copied base: pretrain under another --name.")
        return
    if run.recipe.distillation.steps and not run.distilled.exists():
        raise RecipeError(f"{run.folder} has no distilled tower yet: run the stage `distil` first.")
    with loop.first_then_others():
        clips, validation = _pretraining_clips(run)
        pretrain.prepare(run.folder, clips, run.recipe.pretrain, run.distilled if run.distilled.exists() else None)
        if run.recipe.pretrain.features:
            distillation.prepare(clips, run.data)
    kind = distillation.TaughtPretraining if run.recipe.pretrain.features else pretrain.Pretraining
    loop.parallel(pretrain.pretrain, run.folder, clips, validation, run.recipe.pretrain, kind, processes=loop.cores())


def run_data(run: Run) -> None:
    """The clips of every split, spoken or from a corpus, and the base beside them."""
    if not run.base.exists():
        with checkpoints.atomic_folder(run.base) as out:
            shutil.copytree(hub.fetch(checkpoints.resolve(run.recipe.base).base), out, dirs_exist_ok=True)
    if run.recipe.train.source == "elevenlabs":
        _data_of_corpus(run, str(_spoken_by_elevenlabs(run)))
        return
    if run.recipe.train.source == "corpus":
        _data_of_corpus(run, run.recipe.train.corpus)
        return
    for name, config in _splits(run.recipe).items():
        dataset.build(run.data, name, config)


def _spoken_by_elevenlabs(run: Run) -> Path:
    """The folder of a corpus of as many clips as the splits have, spoken with a key of ElevenLabs; what is there is not
    paid again. Raises RecipeError where it costs more than the budget."""
    folder, settings = run.folder / "corpus", run.recipe
    clips = settings.train.clips + settings.validation.clips + settings.test.clips
    room = min(
        writing.MAX_CHARACTERS, 10 * settings.train.window_seconds
    )  # characters that fit a window, spoken slowly
    config = making.MakeConfig(clips, "elevenlabs", seed=settings.train.seed, max_characters=room)
    if corpus_clips.planned(run.data):
        return folder
    key = making.key_of()
    price = making.cost(folder, config)
    if price.dollars > run.budget:
        raise RecipeError(f"ElevenLabs has {price}: give --budget {price.dollars + 0.01:.2f} to spend that.")
    log.info("%s", price)
    for sentence in making.make(folder, config, key, elevenlabs.API):
        log.warning("%s", sentence)
    return folder


def _data_of_corpus(run: Run, corpus: str) -> None:
    settings, train = run.recipe, run.recipe.train
    if not corpus_clips.planned(run.data):
        columns = reading.Columns(train.text_column, train.audio_column)
        corpus_clips.plan(run.data, reading.read(corpus, columns, train.subset), settings.sft.language)
    for name, config in _splits(settings).items():
        corpus_clips.build(run.data, name, dataclasses.replace(config, keep_audio=True))  # RAFT and bench hear it


def run_sft(run: Run) -> None:
    """Adapter on the base, from the tagged texts."""
    if run.sft.exists():
        return
    clips, validation = Clips.load(run.data, "train"), Clips.load(run.data, "validation")
    texts = [clip.text for clip in clips.clips]
    loop.parallel(
        sft.train,
        run.folder,
        "sft",
        run.base,
        run.recipe.lora,
        _adapter(run.recipe.sft_start),
        clips,
        texts,
        validation,
        run.recipe.sft,
        shown=run.shown,
    )


def _adapter(model: str) -> Path | None:
    """The folder of a model's SFT adapter; None for no model."""
    return hub.fetch(checkpoints.resolve(model).adapters["sft"]) if model else None


def run_raft(run: Run) -> None:
    """Sample from the SFT adapter, and train it on with the best, or as `[rl] method` says."""
    if run.rl.exists():
        return
    config = run.recipe.raft
    clips = Clips.load(run.data, "fresh" if run.recipe.fresh else "train")
    validation = Clips.load(run.data, "validation")
    if config.supervised >= len(clips):
        raise RecipeError(f"raft.supervised = {config.supervised} must be less than the {len(clips)} clips there are.")
    sampled = clips.first(len(clips) - config.supervised)
    loop.first_only(lambda: raft.sample(_engine(run, "sft"), "sft", sampled, config, run.samples))
    samples = raft.read(run.samples)
    make_task = sft.Finetuning
    if run.recipe.rl.method == "raft":
        learned, texts = raft.training_set(samples, clips, config.drop)
    else:
        found = policy.attempts(samples, clips, run.recipe.rl)
        if not found.texts:
            raise RecipeError(f"{run.recipe.rl.method} has nothing to learn from: all attempts at a clip are alike.")
        learned, texts, make_task = found.clips, found.texts, found.task
    mean = sum(sum(s.rewards) / len(s.rewards) for s in samples) / len(samples)
    best = sum(max(s.rewards) for s in samples) / len(samples)
    log.info(
        "%s: mean reward %.3f, of the best %.3f; %d texts to learn from", run.recipe.rl.method, mean, best, len(learned)
    )
    loop.parallel(
        sft.train,
        run.folder,
        "rl",
        run.base,
        run.recipe.lora,
        run.sft,
        learned,
        texts,
        validation,
        config.sft,
        make_task,
        shown=run.shown,
    )


def run_bench(run: Run) -> None:
    """Transcribe the test clips with every variant, and score them."""
    if not run.results.exists():
        clips = Clips.load(run.data, "test")
        engine = _engine(run, "sft", "rl")
        pairs = bench.predict(engine, clips, run.folder)
        open_wer = bench.ordinary(engine, run.recipe.bench.ordinary)
        found = bench.results(pairs, clips, run.recipe.base, run.recipe.test.seed, open_wer, run.recipe.bench)
        partial = run.results.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        partial.rename(run.results)
    print(bench.table(json.loads(run.results.read_text(encoding="utf-8"))))


def run_people(run: Run) -> None:
    """Calibrate the confidence on validation clips, then measure on natural voices and people never heard before."""
    held_out, validation, config = run.folder / "people", run.folder / "people-validation", run.recipe.people
    if not (held_out / "judged").exists():
        evaluate_people.check(config)
        evaluate_people.measure(_engine(run, "sft", "rl"), validation, config=config, validation=True)
        calibration = confidence.calibrated(confidence.read(validation))
        calibration.save(run.base)
        evaluate_people.measure(_engine(run, "sft", "rl"), held_out, config=config)
        confidence.judge(calibration, held_out)
        (held_out / "judged").touch()
    print("\n".join(evaluate_people.told(json.loads((held_out / evaluate_people.FILE).read_text(encoding="utf-8")))))


def _splits(settings: Recipe) -> dict[str, dataset.DataConfig]:
    named = {
        "train": settings.train,
        "validation": settings.validation,
        "fresh": settings.fresh,
        "test": settings.test,
    }
    return {name: config for name, config in named.items() if config}


def _engine(run: Run, *variants: str):
    from evoxtral.inference.engine import Engine

    adapters = {name: str(run.folder / name) for name in variants if (run.folder / name).exists()}
    return Engine(checkpoints.Checkpoint(run.folder.name, str(run.base), adapters))


RUNNERS = {
    "bank": run_bank, "distil": run_distil, "pretrain": run_pretrain, "data": run_data, "sft": run_sft,
    "raft": run_raft, "bench": run_bench, "people": run_people,
}  # fmt: skip


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe as the command line changes it. Raises RecipeError for what would waste a GPU's hours."""
    settings = recipe.load(options.recipe)
    if options.corpus or options.source:
        source = options.source or "corpus"
        settings = recipe.with_source(settings, source, options.corpus or "", options.text_column, options.audio_column)
    if settings.base == checkpoints.MINI and settings.train.source == "embedded" and options.source != "embedded":
        raise RecipeError(
            f"{checkpoints.MINI} would learn a robot's voice from the embedded one: give --corpus FOLDER or --source "
            "elevenlabs, or say --source embedded if that is what you want."
        )
    return settings


def run_stages(options: argparse.Namespace) -> None:
    stages = options.stages.split(",") if options.stages else None
    if unknown := [stage for stage in stages or () if stage not in RUNNERS]:
        raise RecipeError(f"There is no stage {unknown[0]!r}; the stages are {', '.join(VOICED_STAGES)}.")
    tracks = list(dict.fromkeys(options.track))
    tracking.check(tracks)
    run = Run(
        options.runs / (options.name or Path(options.recipe).stem), _recipe(options), bool(tracks), options.budget
    )
    stages = stages or (VOICED_STAGES if run.recipe.banks else DEFAULT_STAGES)
    taught = run.recipe.distillation.steps if "distil" in stages else 0
    if taught or ("pretrain" in stages and run.recipe.pretrain.features):
        distillation.check()  # now, not after hours of speaking
    with loop.first_then_others():
        run.claim()
    with tracking.following(run.folder, tracks if loop.world()[0] == 0 else ()):
        for stage in stages:
            log.info("== %s", stage)
            if stage in SHARED_STAGES:
                RUNNERS[stage](run)
            else:
                loop.first_only(partial(RUNNERS[stage], run))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training/run.py", description=__doc__.split("\n\n")[0], epilog=MORE)
    parser.add_argument("--recipe", default="tiny", help="a file in training/recipes/, or the path of a .toml file")
    parser.add_argument("--name", help="of the folder under --runs; the recipe's own name if left out")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where runs are kept")
    parser.add_argument(
        "--stages",
        help=f"in order, of {','.join(VOICED_STAGES)} (default: {','.join(DEFAULT_STAGES)}; of a recipe with natural "
        "voices: all)",
    )
    parser.add_argument("--corpus", help="train on this folder or Hub dataset instead: see docs/training.md")
    parser.add_argument("--source", choices=dataset.SOURCES, help="where clips come from, instead of the recipe's")
    parser.add_argument("--text-column", default="", help="of the corpus, where it is not `text`")
    parser.add_argument("--audio-column", default="", help="of the corpus, where it is not `file_name` or `audio`")
    parser.add_argument("--budget", type=float, default=0.0, help="dollars that may be spent at ElevenLabs (0)")
    tracking.add_option(parser)
    options = parser.parse_args(arguments)
    loop.join_launched()
    logging.basicConfig(level=logging.INFO if loop.world()[0] == 0 else logging.WARNING, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    code = exit_code(lambda: run_stages(options), options.runs)
    if code == 0:  # or else the others still wait, and the launcher ends them
        loop.leave_launched()
    return code


if __name__ == "__main__":
    sys.exit(main())
