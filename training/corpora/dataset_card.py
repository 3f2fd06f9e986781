"""A corpus for the Hub: metadata.jsonl, its recordings, and a dataset card made from what was read and heard."""

import json
import re
from collections import Counter
from pathlib import Path

from evoxtral import tags
from evoxtral.errors import RecipeError
from training.corpora import checking, page, reading

# `datasets` takes such a word in a name for that of a split, and then leaves out the other files and the metadata.
_SPLIT_WORD = re.compile(
    r"(?:^|[-._ 0-9/])(?:train|training|validation|valid|val|dev|test|testing|eval|evaluation)(?:$|[-._ 0-9/])"
)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def prepare(folder: Path, repo: str) -> list[str]:
    """Write the card into the folder of a corpus; the files that are pushed. Raises RecipeError for a corpus that is
    none, that training would be wrong on, or that `datasets` would read in part only."""
    table = folder / "metadata.jsonl"
    if not table.is_file():
        raise RecipeError(f"{folder} is no corpus: it has no metadata.jsonl; make one with training/corpus.py.")
    corpus = reading.read(str(folder))
    files = sorted({row.source.path.relative_to(folder).as_posix() for row in corpus.rows})
    if split := next((name for name in files if _SPLIT_WORD.search(name)), None):
        raise RecipeError(
            f"{split}: `datasets` takes a word in this name for a split: rename it here and in the table."
        )
    report = checking.check(corpus, window=30.0, listen=1)
    if report.fatal:
        raise RecipeError(f"{report.findings[0]} There are {report.fatal} such findings: see training/corpus.py check.")
    (folder / "README.md").write_text(card(repo, folder, report), encoding="utf-8")
    return ["README.md", table.name, *files]


def card(repo: str, folder: Path, report: checking.Report) -> str:
    """The dataset card."""
    from huggingface_hub import DatasetCardData

    clips, voice = report.clips, _voice(folder)
    data = DatasetCardData(
        language=sorted({clip.row.language for clip in clips} - {""}) or None,
        task_categories=["automatic-speech-recognition", "text-to-speech"],
        size_categories=[next((name for most, name in _SIZES if len(clips) < most), "n>1M")],
        tags=["audio", "expressive-speech", "tagged-transcripts", *(["synthetic"] if voice else [])],
        pretty_name=repo.rpartition("/")[2],
    )
    counts = Counter(name for clip in clips for name in tags.names(clip.row.text))
    return "\n".join(
        [
            f"---\n{data.to_yaml()}\n---\n",
            f"# {repo.rpartition('/')[2]}\n",
            "Speech with transcripts that have tags where a sound or a delivery is heard: `[sighs] I told you.` A word "
            "in CAPITALS is stressed.\n",
            f"{voice}\n" if voice else "",
            "| | |\n|---|---|",
            *(f"| {name} | {value} |" for name, value in page.figures(clips).items()),
            f"\n{report.splitting} That is how training divides them; the files are not divided.\n",
            "| Tag | Count |\n|---|---|",
            *(f"| {name} | {count} |" for name, count in counts.most_common()),
            f'\n```python\nfrom datasets import load_dataset\n\nclips = load_dataset("{repo}")\n```\n',
            f"```sh\npython training/run.py --recipe mini-3b --corpus {repo}\n```\n",
        ]
    )


def _voice(folder: Path) -> str:
    """How the corpus was spoken; "" for one that `training/corpus.py make` has not made."""
    made = folder / "scripts.jsonl"
    if not made.is_file():
        return ""
    with made.open(encoding="utf-8") as file:
        settings = json.loads(file.readline())
    by = f"ElevenLabs ({settings['model']})" if settings["voice"] == "elevenlabs" else f"the {settings['voice']} voice"
    wrote = f"by {settings['scripts_model']}" if settings.get("scripts_model") else "by the grammar of Evoxtral"
    return f"Spoken by {by}, from scripts written {wrote}; seed {settings['seed']}. Check the licence of the voice."
