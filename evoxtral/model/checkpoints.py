"""Find and load weights: the scale model in the package, the published model, a folder, or a Hub id.

A checkpoint is a base and any number of adapters. Each is a folder or a Hub id, `owner/name` or
`owner/name@revision`.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig, VoxtralConfig, VoxtralForConditionalGeneration

from evoxtral.errors import CheckpointError, reading
from evoxtral.model import hub, lora, mistral_layout

log = logging.getLogger(__name__)

TINY, MINI = "tiny", "mini-3b"
ASKED = "asked for"  # the reason of a checkpoint that was named
TINY_FOLDER = Path(__file__).parents[1] / "assets" / "tiny"
MINI_BASE = "mistralai/Voxtral-Mini-3B-2507"
WEIGHTS = ("auto", "fp32", "bf16", "fp16", "int8", "int4")  # precisions, the most exact first; see `precision.choose`
MINI_BYTES = 12e9  # of GPU memory: 9.4e9 for the base, the rest for adapters, cache and activations
MINI_ADAPTERS = {"sft": "YongkangZOU/evoxtral-lora", "rl": "YongkangZOU/evoxtral-rl"}
ADAPTER_ORDER = ("sft", "rl")  # the order in which a folder's adapters were trained; others follow by name

_VARIANT = re.compile(r"[\w-]+")
_RESERVED = (lora.BASE, "all")  # "all" asks for every variant
_HUB_TIMEOUT = 5.0  # s, to find out whether the Hub can be reached


@dataclass(frozen=True)
class Checkpoint:
    """References to a base and its adapters, as folders or Hub ids; nothing is loaded.

    name: as it is shown to people.  adapters: variant -> folder or Hub id.  reason: why this one was chosen, for
    the log and the page.  weights: their precision, one of WEIGHTS.  window: length in s of the windows that are
    encoded, None for the model's own.
    """

    name: str
    base: str
    adapters: Mapping[str, str] = field(default_factory=dict)
    reason: str = ASKED
    weights: str = "auto"
    window: float | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        return (lora.BASE, *self.adapters)


def resolve(
    name: str = "auto",
    environ: Mapping[str, str] = os.environ,
    weights: str | None = None,
    window: float | None = None,
) -> Checkpoint:
    """Find a checkpoint: "auto", "tiny", "mini-3b", a folder, or the Hub id of a base.

    A folder is a base, or holds base/ and adapters. "auto" is EVOXTRAL_MODEL where that is set; else mini-3b where
    there is a CUDA device (or ZeroGPU) and its weights can be had, and tiny elsewhere. EVOXTRAL_SFT and EVOXTRAL_RL
    replace those adapters, and EVOXTRAL_ADAPTERS="mine=me/my-lora,other=folder" adds more. weights: their precision,
    None for EVOXTRAL_WEIGHTS or "auto". window: see Checkpoint, None for EVOXTRAL_WINDOW. Raises CheckpointError.
    """
    reason = ASKED
    weights = weights or environ.get("EVOXTRAL_WEIGHTS") or "auto"
    if weights not in WEIGHTS:
        raise CheckpointError(f"EVOXTRAL_WEIGHTS is {weights!r}: use one of {', '.join(WEIGHTS)}.")
    window = _window_from(environ) if window is None else window
    replaced, added = _adapters_from(environ)
    if name == "auto" and (environ.get("EVOXTRAL_MODEL") or "auto") != "auto":
        name, reason = environ["EVOXTRAL_MODEL"], "EVOXTRAL_MODEL names it"
    elif name == "auto":
        name, reason = _best_available(environ, {**MINI_ADAPTERS, **replaced, **added})
        if name == TINY:  # chosen automatically: adapters set for the other base must not make the start fail
            unused = [f"EVOXTRAL_{variant.upper()}" for variant in replaced]
            unused += [f"EVOXTRAL_ADAPTERS' {variant}" for variant, reference in added.items() if hub.is_id(reference)]
            reason += "".join(f"; {adapter} is for {MINI} and is not used here" for adapter in unused)
            replaced, added = {}, {variant: folder for variant, folder in added.items() if not hub.is_id(folder)}
    base, adapters = _base_and_adapters(name)
    adapters = {**adapters, **replaced, **added}
    checkpoint = Checkpoint(name, base, adapters, reason, weights, window)
    log.info("model %s (%s): base %s, adapters %s", name, reason, base, dict(adapters))
    return checkpoint


def _base_and_adapters(name: str) -> tuple[str, dict[str, str]]:
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
    if (folder / "config.json").is_file() or hub.is_id(name):
        return name, {}
    raise CheckpointError(
        f"There is no model {name!r}: use {TINY}, {MINI}, a folder with config.json or with base/ and adapters, "
        "or a Hub id."
    )


def _adapters_from(environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The adapters that the environment names: those that replace published ones, and additional ones."""
    variables = {variant: f"EVOXTRAL_{variant.upper()}" for variant in ADAPTER_ORDER}
    replaced = {variant: environ[name] for variant, name in variables.items() if environ.get(name)}
    added = {}
    for entry in filter(None, map(str.strip, environ.get("EVOXTRAL_ADAPTERS", "").split(","))):
        variant, equals, reference = entry.partition("=")
        if not equals or not reference or not _VARIANT.fullmatch(variant) or variant in _RESERVED:
            raise CheckpointError(
                f"EVOXTRAL_ADAPTERS has {entry!r}: write name=folder or name=owner/name, with commas between, "
                f"and no name that is taken ({', '.join(_RESERVED)})."
            )
        added[variant] = reference
    return replaced, added


def _window_from(environ: Mapping[str, str]) -> float | None:
    text = environ.get("EVOXTRAL_WINDOW")
    try:
        return float(text) if text else None
    except ValueError:
        raise CheckpointError(f"EVOXTRAL_WINDOW is {text!r}: give a number of seconds, such as 10.") from None


def _best_available(environ: Mapping[str, str], adapters: Mapping[str, str]) -> tuple[str, str]:
    if not environ.get("SPACES_ZERO_GPU"):
        if not torch.cuda.is_available():
            return TINY, f"no CUDA device here; to hear people, choose a GPU or set EVOXTRAL_MODEL={MINI}"
        if (room := _gpu_bytes()) < MINI_BYTES:
            return TINY, f"the GPU has {room / 1e9:.0f} GB and {MINI} needs {MINI_BYTES / 1e9:.0f}"
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HTTPError

    absent = [reference for reference in (MINI_BASE, *adapters.values()) if not _is_cached(reference)]
    if not absent:
        return MINI, "a CUDA device is here, and its weights are on this machine"
    log.info("not whole on this machine: %s", ", ".join(absent))
    try:
        HfApi().model_info(MINI_BASE, timeout=_HUB_TIMEOUT)
        return MINI, "a CUDA device is here, and the Hub has its weights"
    except GatedRepoError:
        return TINY, hub.GATED.format(MINI_BASE).rstrip(".")
    except (HTTPError, ConnectionError) as error:
        return TINY, f"not all of {MINI} is on this machine, and the Hub does not give it ({type(error).__name__})"


def download_size(checkpoint: Checkpoint) -> int | None:
    """Bytes to download before a checkpoint runs here; None where it cannot be had: the Hub is out of reach or gives it
    to others only, or the disk is too small."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    absent = [reference for reference in (checkpoint.base, *checkpoint.adapters.values()) if not _is_cached(reference)]
    if not absent:
        return 0
    try:
        return sum(map(hub.bytes_to_download, absent)) or None
    except (CheckpointError, OSError, HTTPError, HfHubHTTPError) as error:
        log.info("%s cannot be had: %s", checkpoint.name, error)
        return None


def _gpu_bytes() -> int:
    return torch.cuda.get_device_properties(0).total_memory


def _is_cached(reference: str) -> bool:
    """Whether all files of the published base or of an adapter are on this machine: a download may be incomplete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if Path(reference).is_dir():
        return True
    repo, _, revision = reference.partition("@")
    try:
        folder = Path(
            snapshot_download(repo, revision=revision or None, allow_patterns=hub.FILES, local_files_only=True)
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return False
    if repo == MINI_BASE:
        needed = [folder / "config.json", folder / "tekken.json", folder / "preprocessor_config.json"]
        needed += weight_files(folder)
    else:
        needed = [folder / lora.CONFIG_FILE, folder / lora.WEIGHTS_FILE]
    return all(file.is_file() for file in needed)


# ------------------------------------------------------------------------------------------------------- load


def load_config(folder: Path) -> VoxtralConfig:
    """The configuration of a base folder. Raises CheckpointError."""
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} is no model: it has no config.json.")
    kind = lora.read_json(file).get("model_type")
    if kind != "voxtral":
        raise CheckpointError(f"{folder} holds a model of type {kind!r}; Evoxtral runs Voxtral models.")
    with reading(file, StrictDataclassError):
        return VoxtralConfig.from_pretrained(folder)


def load_base(folder: Path, dtype: torch.dtype, mapped: bool = False) -> VoxtralForConditionalGeneration:
    """The base model, in evaluation mode on the CPU, every weight from its files. Raises CheckpointError.

    mapped: memory-map the files, which is faster when the weights go to a GPU. On a CPU the pages and the tensors made
    from them would both be in memory: so by default tensors are read one by one.
    """
    config = load_config(folder)
    if not (files := weight_files(folder))[0].is_file() and any(folder.glob("model-int*.safetensors")):
        raise CheckpointError(f"{folder} holds quantised weights alone: name the model that they were made from.")
    files = [open_weights(file, mapped) for file in files]
    tensors = {name: file.get_slice(name) for file in files for name in file.keys()}  # noqa: SIM118  no mapping
    with _quiet_transformers(), reading(f"config.json or the weights in {folder}", RuntimeError, SafetensorError):
        model, info = VoxtralForConditionalGeneration.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
        )
    wrong = sorted({*info["missing_keys"], *info["unexpected_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if wrong:
        raise CheckpointError(f"The weights in {folder} do not fit its config.json: {lora.first_of(wrong)}.")
    generation = folder / "generation_config.json"
    if generation.is_file():
        with reading(generation):
            model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' warnings while loading: mismatched tensors are reported by `load_base` in one sentence."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a base: one, or those in its index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    with reading(index):
        return [folder / name for name in sorted({*lora.read_json(index)["weight_map"].values()})]


def open_weights(file: Path, mapped: bool) -> safe_open:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing: the model was not downloaded or copied whole; do so again.")
    with reading(file, SafetensorError):
        return safe_open(file, framework="pt", backend="mmap" if mapped else "pread")


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


def _meta_model(base: str) -> VoxtralForConditionalGeneration:
    """A base on the meta device. It needs the configuration only, and nothing for the published base."""
    published = base.partition("@")[0] == MINI_BASE
    config = published_config() if published else load_config(hub.fetch(base, ("config.json",)))
    with reading(f"config.json of {base}", RuntimeError), torch.device("meta"):
        return VoxtralForConditionalGeneration(config)


def parameter_counts(checkpoint: Checkpoint) -> tuple[int, int]:
    """(total, trainable) parameters of a base with LoRA on it, LoRA included in the total, as PEFT counts.

    The LoRA is that of the last adapter. Without adapters, and for the published ones (not downloaded for this),
    it is that of the training recipe. Raises CheckpointError, also for an adapter that does not fit.
    """
    model = _meta_model(checkpoint.base)
    trainable = recipe = lora.LoraRecipe().parameters(model)
    for variant, reference in checkpoint.adapters.items():
        published = reference in MINI_ADAPTERS.values()
        trainable = recipe if published else lora.read(hub.fetch(reference), model, variant).parameters
    return sum(parameter.numel() for parameter in model.parameters()) + trainable, trainable


def write_merged(checkpoint: Checkpoint, variant: str, folder: Path, layout: str = "transformers") -> None:
    """Write the base with one adapter merged into its weights, in the base's own precision, and its processor.

    Plain transformers loads it, and so do engines that cannot apply these adapters; with layout "mistral", vLLM's own
    Voxtral class does. Raises CheckpointError.
    """
    if variant not in checkpoint.adapters:
        raise CheckpointError(
            f"{variant!r} cannot be merged: the adapters of {checkpoint.name} are "
            f"{', '.join(checkpoint.adapters) or 'none'}."
        )
    if not folder.name or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise CheckpointError(f"{folder} exists already: name a new folder.")
    with ExitStack() as stack:
        with writing(folder):
            out = stack.enter_context(atomic_folder(folder))
        # The adapter before the base: an error in it is found before gigabytes are downloaded.
        adapter = hub.fetch(checkpoint.adapters[variant])
        lora.read(adapter, _meta_model(checkpoint.base), variant)
        source = hub.fetch(checkpoint.base)
        model = load_base(source, load_config(source).dtype or torch.bfloat16)
        lora.merge(model, lora.read(adapter, model, variant))
        with writing(folder):
            model.save_pretrained(out)
            for name in ("tekken.json", "processor_config.json", "preprocessor_config.json"):
                if (source / name).is_file():
                    shutil.copyfile(source / name, out / name)
            if layout == "mistral":
                written = [file for file in out.iterdir() if file.name != "tekken.json"]
                mistral_layout.write(out, out)
                for file in written:
                    file.unlink()


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill that is renamed to `folder` at the end, so that `folder` is never incomplete."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """While a folder or a file of a model is written: what fails becomes a CheckpointError that names it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{folder} cannot be written: {reason}.") from error
