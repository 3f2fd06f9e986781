"""The clips of a corpus as training reads them: the same shards of log-mels that spoken scripts become.

`NAME.plan` says first which rows the split has: it is written whole, so a build that was interrupted goes on with
the same clips whatever has happened to the corpus since.
"""

import json
import logging
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np

from evoxtral import audio, tags
from evoxtral.errors import AudioError, RecipeError
from training import augment, dataset, loop
from training.corpora import checking, reading, splitting
from training.corpora.reading import Row, Source
from training.dataset import Clips, DataConfig, Spoken
from training.tagged_texts import TAG_RANGE

log = logging.getLogger(__name__)


def plan(folder: Path, corpus: reading.Corpus, language: str) -> None:
    """Write the rows of every split of a corpus into `folder`; a plan that is there already is kept.

    language: clips of another one are left out. Raises RecipeError for a corpus with lines that cannot be read, or with
    texts that would teach something wrong.
    """
    if planned(folder):
        return
    texts = [finding for row in corpus.rows for finding in checking.about_text(row)]
    if wrong := [finding for finding in (*corpus.findings, *texts) if finding.fatal]:
        more = f" {len(wrong) - 1} more lines are wrong: see `training/corpus.py check`." if len(wrong) > 1 else ""
        raise RecipeError(f"{wrong[0]}{more}")
    spoken = [row for row in corpus.rows if language_of(row.language) in ("", language)]
    if len(spoken) < len(corpus.rows):
        log.info("%s: %d clips are not in %s", corpus.name, len(corpus.rows) - len(spoken), language)
    rows, how = splitting.split(spoken) if spoken else ([], "")
    log.info("%s: %s", corpus.name, how)
    if len(spoken) < checking.FEW:
        log.warning("%s", checking.too_few(corpus, len(spoken)))
    folder.mkdir(parents=True, exist_ok=True)
    for name in splitting.SHARES:
        chosen = [row for row in rows if row.split == name]
        if not chosen:
            raise RecipeError(f"{corpus.name} has no clip of {name} in {language}: add some, or name the splits.")
        partial = _plan_of(folder, name).with_suffix(".partial")
        partial.write_text("".join(json.dumps(asdict(row), default=str) + "\n" for row in chosen), encoding="utf-8")
        partial.rename(_plan_of(folder, name))


def planned(folder: Path) -> bool:
    """Whether the plan of every split is there."""
    return all(_plan_of(folder, name).exists() for name in splitting.SHARES)


def language_of(name: str) -> str:
    """`en-US`, `EN` and `English` are "en"; "" where it is unknown."""
    name = name.lower().replace("_", "-").partition("-")[0]
    return {"english": "en", "chinese": "zh", "mandarin": "zh"}.get(name, name)


def build(folder: Path, name: str, config: DataConfig, workers: int | None = None) -> Clips:
    """The clips of a split as shards in `folder`, as `plan` says; those already there are kept. Raises RecipeError,
    which names the line, for a clip that cannot be trained on."""
    from tqdm import tqdm

    rows = _rows(folder, name)
    heard = {row.speaker for row in _rows(folder, "train")} if name != "train" else set()
    jobs = []
    for k, start in enumerate(range(0, len(rows), dataset.SHARD)):
        stem = f"{name}-{k:04d}"
        if not (folder / f"{stem}.jsonl").exists():
            chosen = rows[start : start + dataset.SHARD]
            fresh = {row.speaker for row in chosen if name != "train" and row.speaker and row.speaker not in heard}
            jobs.append((folder, stem, chosen, fresh, config))
    with (
        ProcessPoolExecutor(workers or loop.cores(), initializer=loop.end_with_parent) as pool,
        tqdm(total=sum(len(job[2]) for job in jobs), desc=f"read {name}", unit="clip") as bar,
    ):
        for done in [pool.submit(_build_shard, *job) for job in jobs]:
            bar.update(done.result())
    return Clips.load(folder, name)


def _build_shard(folder: Path, stem: str, rows: list[Row], held_out: set[str], config: DataConfig) -> int:
    return dataset.write_shard(folder, stem, _spoken(stem, rows, held_out, config), config)


def _spoken(stem: str, rows: list[Row], held_out: set[str], config: DataConfig) -> Iterator[tuple[Spoken, np.ndarray]]:
    rng = random.Random(f"{config.seed}/{stem}")
    for source, group in groupby(rows, key=lambda row: row.source):
        same = list(group)
        try:
            waveform = audio.load(source.read(), checking.MAX_RECORDING)
        except AudioError as error:
            raise RecipeError(f"{same[0].where}: {error}") from None
        for row in same:
            clip, seed = audio.levelled(checking.cut(row, waveform)), rng.getrandbits(31)
            if not 0 < audio.duration(clip) <= config.window_seconds:
                raise RecipeError(
                    f"{row.where}: {row.name} is {audio.duration(clip):.1f} s long, and the model hears "
                    f"{config.window_seconds} s at once: see `training/corpus.py check`."
                )
            if config.augment and stem.startswith("train"):
                clip = augment.roomy(clip, np.random.default_rng(seed))
            about = Spoken(row.text, slice_of(row.text), "corpus", row.speaker, row.speaker in held_out, seed)
            yield about, clip


def slice_of(text: str) -> str:
    """The slice that a text would be of, by its number of tags."""
    count = len(tags.names(text))
    return next((name for name, (_, most) in TAG_RANGE.items() if count <= most), "dense")


def _plan_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.plan"


def _rows(folder: Path, name: str) -> list[Row]:
    rows = []
    for line in _plan_of(folder, name).read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        source = values.pop("source")
        rows.append(Row(**values, source=Source(**source | {"path": Path(source["path"])})))
    return rows
