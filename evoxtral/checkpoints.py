"""Which weights to use: the scale model that ships with the package, the published model, a folder, or a Hub
id.

A checkpoint is a base and any number of adapters. Each is a folder or a Hub id, `owner/name` or
`owner/name@revision`.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig, VoxtralConfig, VoxtralForConditionalGeneration

from evoxtral import lora
from evoxtral.errors import CheckpointError

log = logging.getLogger(__name__)

TINY, MINI = "tiny", "mini-3b"
TINY_FOLDER = Path(__file__).parent / "assets" / "tiny"
MINI_BASE = "mistralai/Voxtral-Mini-3B-2507"
MINI_ADAPTERS = {"sft": "YongkangZOU/evoxtral-lora", "rl": "YongkangZOU/evoxtral-rl"}
ADAPTER_ORDER = ("sft", "rl")  # the order in which a folder's adapters were trained; others follow by name

# The Hub's copy of the base holds the same weights a second time in Mistral's own format: not fetched.
FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tekken.json", "model*.safetensors", "model.safetensors.index.json", lora.CONFIG_FILE, lora.WEIGHTS_FILE,
)  # fmt: skip
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_VARIANT = re.compile(r"[\w-]+")
_TAKEN = (lora.BASE, "all")  # "all" asks for every variant
_HUB_TIMEOUT = 5.0  # s, to find out whether the Hub can be reached


@dataclass(frozen=True)
class Checkpoint:
    """A base and its adapters, by folder or Hub id; nothing is loaded yet.

    name: what people call it.  adapters: variant -> folder or Hub id.  reason: why this one was chosen, for
    the log and the page.
    """

    name: str
    base: str
    adapters: Mapping[str, str] = field(default_factory=dict)
    reason: str = "asked for"

    @property
    def variants(self) -> tuple[str, ...]:
        return (lora.BASE, *self.adapters)


def resolve(name: str = "auto", environ: Mapping[str, str] = os.environ) -> Checkpoint:
    """Find a checkpoint: "auto", "tiny", "mini-3b", a folder with base/ and adapters, or the Hub id of a base.

    "auto" is EVOXTRAL_MODEL where that is set; else mini-3b where there is a CUDA device (or ZeroGPU) and its
    weights can be had, and tiny elsewhere. EVOXTRAL_SFT and EVOXTRAL_RL replace those adapters, and
    EVOXTRAL_ADAPTERS="mine=me/my-lora,other=folder" adds more. Raises CheckpointError.
    """
    reason = "asked for"
    if name == "auto" and environ.get("EVOXTRAL_MODEL", "auto") != "auto":
        name, reason = environ["EVOXTRAL_MODEL"], "EVOXTRAL_MODEL names it"
    elif name == "auto":
        name, reason = _best_here(environ)
    base, adapters = _parts(name)
    adapters = {**adapters, **_named_adapters(environ)}
    checkpoint = Checkpoint(name, base, adapters, reason)
    log.info("model %s (%s): base %s, adapters %s", name, reason, base, dict(adapters))
    return checkpoint


def _parts(name: str) -> tuple[str, dict[str, str]]:
    if name == TINY and not (TINY_FOLDER / "base" / "config.json").is_file():
        raise CheckpointError(f"The scale model is missing from this installation ({TINY_FOLDER}); install it again.")
    if name == MINI:
        return MINI_BASE, dict(MINI_ADAPTERS)
    folder = TINY_FOLDER if name == TINY else Path(name)
    if (folder / "base").is_dir():
        found = {p.parent.name: str(p.parent) for p in folder.glob(f"*/{lora.CONFIG_FILE}")}
        found.pop(lora.BASE, None)
        known = [variant for variant in ADAPTER_ORDER if variant in found]
        others = sorted(found.keys() - {*known})
        return str(folder / "base"), {variant: found[variant] for variant in (*known, *others)}
    if not folder.exists() and _HUB_ID.fullmatch(name):
        return name, {}
    raise CheckpointError(
        f"There is no model {name!r}: use {TINY}, {MINI}, a folder with base/ and adapters, or a Hub id."
    )


def _named_adapters(environ: Mapping[str, str]) -> dict[str, str]:
    """The adapters that the environment names."""
    variables = {variant: f"EVOXTRAL_{variant.upper()}" for variant in ADAPTER_ORDER}
    named = {variant: environ[name] for variant, name in variables.items() if environ.get(name)}
    for entry in filter(None, map(str.strip, environ.get("EVOXTRAL_ADAPTERS", "").split(","))):
        variant, equals, reference = entry.partition("=")
        if not equals or not reference or not _VARIANT.fullmatch(variant) or variant in _TAKEN:
            raise CheckpointError(
                f"EVOXTRAL_ADAPTERS has {entry!r}: write name=folder or name=owner/name, with commas between, "
                f"and no name that is taken ({', '.join(_TAKEN)})."
            )
        named[variant] = reference
    return named


def _best_here(environ: Mapping[str, str]) -> tuple[str, str]:
    if not torch.cuda.is_available() and not environ.get("SPACES_ZERO_GPU"):
        return TINY, f"no CUDA device here; to hear people, choose a GPU or set EVOXTRAL_MODEL={MINI}"
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(MINI_BASE, allow_patterns=FILES, local_files_only=True))
        if all(file.is_file() for file in _weight_files(folder)):  # a download may have been interrupted
            return MINI, "a CUDA device is here, and its weights are on this machine"
    except LocalEntryNotFoundError:
        pass
    log.info("%s is not on this machine", MINI_BASE)
    try:
        HfApi().model_info(MINI_BASE, timeout=_HUB_TIMEOUT)
        return MINI, "a CUDA device is here, and the Hub has its weights"
    except (HTTPError, ConnectionError) as error:
        return TINY, f"{MINI} is not on this machine, and the Hub cannot be reached ({type(error).__name__})"


# ------------------------------------------------------------------------------------------------------ fetch


def fetch(reference: str) -> Path:
    """The folder of a base or an adapter; a Hub id is downloaded, with progress. Raises CheckpointError."""
    if Path(reference).is_dir():
        return Path(reference)
    if not _HUB_ID.fullmatch(reference):
        raise CheckpointError(f"{reference} is neither a folder nor a Hub id (owner/name or owner/name@revision).")
    return Path(_download(reference, FILES))


def _download(reference: str, files: tuple[str, ...]) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,  # of whichever HTTP library the client uses
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, _, revision = reference.partition("@")
    try:
        _check_disk(repo, revision, files)
        return snapshot_download(repo, revision=revision or None, allow_patterns=files)
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is gated: accept its terms at https://huggingface.co/{repo}, "
            "then log in (`hf auth login` or HF_TOKEN)."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repo} is not on the Hub, or it is private and you are not logged in (HF_TOKEN)."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} has no revision {revision or 'main'!r}.") from error
    except (LocalEntryNotFoundError, HTTPError, ConnectionError) as error:
        raise CheckpointError(
            f"{reference} is not on this machine and the Hub cannot be reached: check the network, or use --model tiny."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{reference} could not be stored on this machine: {error.strerror or error}.") from error
    except RuntimeError as error:  # of the Hub's transport for large files, a full disk included
        raise CheckpointError(f"The download of {reference} broke off ({error}): start it again.") from error


def _check_disk(repo: str, revision: str, files: tuple[str, ...]) -> None:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError

    try:
        plan = snapshot_download(repo, revision=revision or None, allow_patterns=files, dry_run=True)
    except DryRunError:  # offline: nothing would be downloaded
        return
    needed = sum(file.file_size or 0 for file in plan if file.will_download)
    cache = next(p for p in (Path(constants.HF_HUB_CACHE), *Path(constants.HF_HUB_CACHE).parents) if p.exists())
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise CheckpointError(
            f"{repo} needs {needed / 1e9:.1f} GB of disk and {cache} has {free / 1e9:.1f} GB free: "
            "make room, or set HF_HOME."
        )


# ------------------------------------------------------------------------------------------------------- load


def load_config(folder: Path) -> VoxtralConfig:
    """The configuration of a base folder. Raises CheckpointError."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is no model: it has no config.json.") from error
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'} is not readable JSON; download it again.") from error
    if kind != "voxtral":
        raise CheckpointError(f"{folder} holds a model of type {kind!r}; Evoxtral runs Voxtral models.")
    return VoxtralConfig.from_pretrained(folder)


def load_base(folder: Path, dtype: torch.dtype) -> VoxtralForConditionalGeneration:
    """The base model, in evaluation mode on the CPU, every weight from its files. Raises CheckpointError."""
    config = load_config(folder)
    # Read, not mapped: mapped pages stay in memory beside what is made of them, and the base would be there twice.
    # Tensors come from the files one by one.
    files = [_opened(file) for file in _weight_files(folder)]
    tensors = {name: file.get_slice(name) for file in files for name in file.keys()}  # noqa: SIM118  no mapping
    try:
        model, info = VoxtralForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"The weights in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    wrong = sorted({*info["missing_keys"], *info["unexpected_keys"], *(str(key) for key in info["mismatched_keys"])})
    if wrong:
        raise CheckpointError(f"The weights in {folder} do not fit its config.json: {lora.first_of(wrong)}.")
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def _weight_files(folder: Path) -> list[Path]:
    """The files that a base's weights are in: one, or those that its index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted({*names})]
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not a readable index of weights; download it again.") from error


def _opened(file: Path) -> safe_open:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing: the model was not downloaded or copied whole; do so again.")
    try:
        return safe_open(file, framework="pt", backend="pread")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); download it again.") from error


def published_config() -> VoxtralConfig:
    """The configuration of Voxtral-Mini-3B-2507, as its repository states it."""
    audio = {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "num_mel_bins": 128, "max_source_positions": 1500, "vocab_size": 51866,
    }  # fmt: skip
    text = {
        "model_type": "llama", "vocab_size": 131072, "hidden_size": 3072, "intermediate_size": 8192,
        "num_hidden_layers": 30, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1e8,
        "tie_word_embeddings": False,
    }  # fmt: skip
    audio["model_type"] = "voxtral_encoder"
    return VoxtralConfig(audio_token_id=24, projector_hidden_act="gelu", audio_config=audio, text_config=text)


def parameter_counts(checkpoint: Checkpoint, recipe: lora.LoraRecipe | None = None) -> tuple[int, int]:
    """(total, trainable) parameters of a base with the recipe's LoRA on it, LoRA included in the total, as
    PEFT counts.

    Counted on the meta device: needs the configuration only, and for the published base not even that.
    """
    if checkpoint.base.partition("@")[0] == MINI_BASE:
        config = published_config()
    elif Path(checkpoint.base).is_dir():
        config = load_config(Path(checkpoint.base))
    else:
        config = load_config(Path(_download(checkpoint.base, ("config.json",))))
    with torch.device("meta"):
        model = VoxtralForConditionalGeneration(config)
    trainable = (recipe or lora.LoraRecipe()).parameters(model)
    return sum(parameter.numel() for parameter in model.parameters()) + trainable, trainable


def write_merged(checkpoint: Checkpoint, variant: str, folder: Path) -> None:
    """Write a model that is the base with one adapter folded in, in the base's own precision and with its
    processor.

    Plain transformers loads it, and so do engines that cannot apply these adapters. Raises CheckpointError.
    """
    if variant not in checkpoint.adapters:
        raise CheckpointError(
            f"{variant!r} cannot be merged: the adapters of {checkpoint.name} are "
            f"{', '.join(checkpoint.adapters) or 'none'}."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists already: name a new folder.")
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)  # before anything is downloaded or loaded
    source = fetch(checkpoint.base)
    model = load_base(source, load_config(source).dtype or torch.bfloat16)
    lora.merge(model, lora.read(fetch(checkpoint.adapters[variant]), model, variant))
    with _writing(folder):
        model.save_pretrained(folder)
        for name in ("tekken.json", "processor_config.json", "preprocessor_config.json"):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{folder} cannot be written: {reason}.") from error
