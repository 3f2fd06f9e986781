"""A finished run for the Hub: its adapter, the processor's files, and a model card made from what was measured."""

import json
import shutil
from pathlib import Path

from evoxtral import metrics
from evoxtral.errors import RecipeError
from evoxtral.model import checkpoints, lora
from training import bench

PROCESSOR = ("preprocessor_config.json", "processor_config.json", "tekken.json")
TAGS = ["voxtral", "lora", "speech-recognition", "expressive-transcription", "audio"]
WEAK = 0.7  # of a tag's F1; what lies below is named as a limit
FEW = 5  # occurrences of a tag in the test clips
_TOKEN = "There is no token of the Hub here: log in with `hf auth login`, or set HF_TOKEN."
_RIGHTS = "The token may not write to {}: make one that can write at https://huggingface.co/settings/tokens."
_TAKEN = "{} exists already: choose another name, or replace what is there with --replace."


def prepare(run: Path, repo: str, variant: str = "") -> Path:
    """Write exactly what is pushed to `RUN/push`. variant: the last adapter of the run where it is "". Raises
    RecipeError for a run that is not finished."""
    if not (run / "results.json").is_file():
        raise RecipeError(f"{run} is not a finished run: it has no results.json; finish it with training/run.py.")
    found = [name for name in ("rl", "sft") if (run / name / lora.WEIGHTS_FILE).is_file()]
    chosen = variant or next(iter(found), "")
    if chosen not in found:
        raise RecipeError(f"{run} has no adapter {chosen!r}: it has {', '.join(found) or 'none'}.")
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    shutil.rmtree(run / "push", ignore_errors=True)
    with checkpoints.atomic_folder(run / "push") as out:
        shutil.copyfile(run / chosen / lora.WEIGHTS_FILE, out / lora.WEIGHTS_FILE)
        config = json.loads((run / chosen / lora.CONFIG_FILE).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base_of(recipe)
        (out / lora.CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name in PROCESSOR:
            if (run / "base" / name).is_file():
                shutil.copyfile(run / "base" / name, out / name)
        (out / "README.md").write_text(card(repo, chosen, recipe, results), encoding="utf-8")
    return run / "push"


def push(
    folder: Path, repo: str, private: bool, replace: bool, kind: str = "model", files: list[str] | None = None
) -> str:
    """Send a folder, or some files of it, to the Hub; its address. kind: model or dataset. Raises RecipeError."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    if not get_token():
        raise RecipeError(_TOKEN)
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=replace, repo_type=kind)
        api.upload_folder(
            folder_path=folder,
            repo_id=repo,
            repo_type=kind,
            commit_message="Push from Evoxtral",
            allow_patterns=files,
        )
    except HFValidationError:
        raise RecipeError(f"{repo!r} is no name on the Hub: write owner/name.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        sentences = {401: _TOKEN, 403: _RIGHTS.format(repo), 409: _TAKEN.format(repo)}
        raise RecipeError(sentences.get(status, f"The Hub did not take {repo} (status {status}): try again.")) from None
    except (HTTPError, ConnectionError):
        raise RecipeError("The Hub cannot be reached: check the network, and push again.") from None
    return str(address)


def base_of(recipe: dict) -> str:
    """What the run's base is called: on the Hub, or here."""
    return checkpoints.resolve(recipe["base"]).base if recipe["base"] != checkpoints.TINY else "base"


# --- the card --------------------------------------------------------------------------------------------------


def card(repo: str, variant: str, recipe: dict, results: dict) -> str:
    """The model card of one adapter of a run."""
    base, measured = base_of(recipe), results["variants"][variant]
    clips = results["clips"]
    stages = ["base", "sft", "rl"][: 2 + (variant == "rl")]
    shown = results | {"variants": {name: results["variants"][name] for name in stages}}
    named = f"[{base}](https://huggingface.co/{base})" if "/" in base else "the scale model of Evoxtral"
    return "\n".join(
        [
            f"---\n{_front_matter(repo, base, variant, recipe, measured)}\n---\n",
            f"# {repo.rpartition('/')[2]}\n",
            f"A LoRA adapter for {named} that writes speech down with inline tags: `[sighs] I told you. [laughs]`.\n",
            "## Results\n",
            f"{results['n']} held-out clips ({clips['untagged']} without a tag, {clips['without_emphasis']} without "
            f"emphasis, {clips['held_out_voices']} by speakers that training did not hear), in %, with 95 % intervals "
            f"({results['date']}, commit {results['commit']}):\n",
            bench.table(shown),
            "\n## Limits\n",
            _limits(measured),
            "\n## How it was trained\n",
            _hyperparameters(variant, recipe),
            "\n## Usage\n",
            f"```sh\n{usage(repo, recipe['base'])}\n```\n",
        ]
    )


def usage(repo: str, base: str) -> str:
    """The commands of the card."""
    return (
        f'EVOXTRAL_MODEL={base} EVOXTRAL_ADAPTERS="mine={repo}" python -m evoxtral transcribe hello.wav --variant mine'
    )


def _front_matter(repo: str, base: str, variant: str, recipe: dict, measured: dict) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    name = repo.rpartition("/")[2]
    train = recipe["train"]
    corpus = train["corpus"] if "/" in train["corpus"] and not Path(train["corpus"]).exists() else "custom"
    scores = [
        EvalResult(
            task_type="automatic-speech-recognition",
            dataset_type=corpus,
            dataset_name=f"held-out clips ({train['source']})",
            metric_type=metric.name,
            metric_name=metric.label,
            metric_value=round(measured[metric.name], 4),
        )
        for metric in metrics.METRICS
        if measured.get(metric.name) is not None
    ]
    data = ModelCardData(
        library_name="peft",
        base_model=base if "/" in base else None,
        tags=TAGS + (["rl", "raft"] if variant == "rl" else []),
        datasets=[corpus],
        language=[recipe["sft"]["language"]],
        license="apache-2.0",
        pipeline_tag="automatic-speech-recognition",
        model_name=name,
        eval_results=scores,
    )
    return data.to_yaml()


def _limits(measured: dict) -> str:
    """What the per-tag table says, worst first."""
    known = {name: tag for name, tag in measured["per_tag"].items() if tag["support"] >= FEW}
    rare = sorted(name for name, tag in measured["per_tag"].items() if 0 < tag["support"] < FEW)
    weak = sorted((tag["f1"], name) for name, tag in known.items() if tag["f1"] < WEAK)
    lines = []
    if weak:
        lines.append("- Often missed or invented: " + ", ".join(f"[{n}] (F1 {100 * f1:.0f} %)" for f1, n in weak) + ".")
    if rare:
        lines.append(f"- Too rare in the test clips to tell: {', '.join(f'[{name}]' for name in rare)}.")
    lines.append(
        f"- {100 * measured['tag_hallucination']:.1f} % of the tags it writes are of a kind that nobody meant."
    )
    if measured["wer"] is not None:
        lines.append(f"- {100 * measured['wer']:.1f} % of words are wrong on the test clips; others were not measured.")
    return "\n".join(lines)


def _hyperparameters(variant: str, recipe: dict) -> str:
    """The numbers of the recipe that this adapter was trained with."""
    rows = {"LoRA": f"r {recipe['lora']['r']}, alpha {recipe['lora']['alpha']}, dropout {recipe['lora']['dropout']}"}
    stages = {"SFT": recipe["sft"]} | ({"RAFT": recipe["raft"]["sft"]} if variant == "rl" else {})
    for name, sft in stages.items():
        rows[name] = (
            f"learning rate {sft['learning_rate']:g}, warm-up {sft['warmup']} steps, {sft['epochs']} epochs, batch "
            f"{sft['batch']}, weight decay {sft['weight_decay']}, NEFTune {sft['neftune']}, seed {sft['seed']}"
        )
    if variant == "rl":
        raft = recipe["raft"]
        rows["Sampling"] = (
            f"{raft['samples']} per clip, temperature {raft['temperature']}, top-p {raft['top_p']}, lowest "
            f"{raft['drop']:.0%} dropped"
        )
    rows["Clips"] = recipe["train"]["corpus"] or f"{recipe['train']['clips']} ({recipe['train']['source']})"
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())
