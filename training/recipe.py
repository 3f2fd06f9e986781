"""Recipes: every number of a training run, in one TOML file. What it leaves out is the published recipe."""

import dataclasses
import json
import tomllib
import types
import typing
from dataclasses import dataclass, field, replace
from pathlib import Path

from evoxtral.errors import RecipeError
from evoxtral.model.lora import LoraRecipe
from training import passes
from training.bank import BankConfig
from training.bench import BenchConfig
from training.dataset import DataConfig
from training.distillation import DistillationConfig
from training.evaluate_people import PeopleConfig
from training.policy import RlConfig
from training.pretrain import PretrainConfig
from training.raft import RaftConfig
from training.sft import SftConfig

RECIPES = Path(__file__).with_name("recipes")


@dataclass(frozen=True)
class Recipe:
    """base: what `checkpoints.resolve` takes; its adapters are not used. pretraining_data: parts, in order."""

    base: str = "tiny"
    train: DataConfig = field(default_factory=lambda: DataConfig(clips=808, augment=True))
    validation: DataConfig = field(default_factory=lambda: DataConfig(clips=101, split="validation"))
    fresh: DataConfig | None = None  # clips for RAFT that SFT has not seen; None: the training clips, as published
    test: DataConfig = field(default_factory=lambda: DataConfig(clips=101, split="test"))
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    sft: SftConfig = field(default_factory=SftConfig)
    sft_start: str = ""  # a model whose adapter "sft" SFT goes on from; "" is a new adapter
    raft: RaftConfig = field(default_factory=RaftConfig)
    rl: RlConfig = field(default_factory=RlConfig)  # what is learned from the samples of [raft]
    bench: BenchConfig = field(default_factory=BenchConfig)
    people: PeopleConfig = field(default_factory=PeopleConfig)  # of the stage `people`
    distillation: DistillationConfig = field(default_factory=DistillationConfig)  # of what [pretrain] starts from
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    pretraining_data: tuple[DataConfig, ...] = ()
    banks: tuple[BankConfig, ...] = ()  # sentences in natural voices, for data with a share of `natural`

    def __post_init__(self):
        clips = (self.fresh or self.train).clips
        if self.train.source == "embedded" and self.raft.supervised >= clips:
            raise ValueError(
                f"raft.supervised = {self.raft.supervised} must be less than the {clips} clips that RAFT has: "
                "it samples the rest"
            )
        if self.distillation.steps and not self.pretrain.start:
            raise ValueError("pretrain.start must name the base that [distillation] goes on from")


def with_source(
    settings: Recipe, source: str, corpus: str = "", text_column: str = "", audio_column: str = ""
) -> Recipe:
    """A recipe on clips from another source. A corpus has no fresh clips: RAFT samples those of training then, as
    published. Raises RecipeError for a source that does not exist."""
    try:
        train = replace(
            settings.train, source=source, corpus=corpus, text_column=text_column, audio_column=audio_column
        )
    except ValueError as error:
        raise RecipeError(f"{error}.") from None
    if source == "embedded":
        return replace(settings, train=train)
    return replace(settings, train=train, fresh=None, raft=replace(settings.raft, supervised=0))


def same(written: str, settings: Recipe) -> bool:
    """Whether a recipe.json is of this recipe; what it does not have yet is as it was then: the default."""
    content = json.loads(written)
    content.pop(passes.AS_RUN, None)
    return _as_it_matters(_read(Recipe, content, "recipe.json")) == _as_it_matters(settings)


def _as_it_matters(settings: Recipe) -> Recipe:
    """The recipe without how batches go through memory, which changes nothing."""
    raft = replace(settings.raft, sft=replace(settings.raft.sft, micro_batch=0))
    return replace(settings, sft=replace(settings.sft, micro_batch=0), raft=raft)


def known() -> list[str]:
    """The recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(name: str) -> Recipe:
    """Read recipes/NAME.toml, or the file NAME. Raises RecipeError for what does not exist or is not understood."""
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = ", ".join(known())
        raise RecipeError(f"There is no recipe {path}; use one of {names}, or the path of a .toml file.") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}.") from None
    return _read(Recipe, values, path.name)


def _read(kind: type, values: dict, where: str):
    """A dataclass from a table; a key it does not have, or a value of another type, is an error."""
    hints = typing.get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        if value is None:  # as recipe.json has it: nothing
            continue
        if key not in hints:
            raise RecipeError(f"{where} has the unknown key {key!r}; it can have {', '.join(hints)}.")
        arguments[key] = _value(hints[key], value, f"{where}: {key}")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}.") from None


def _value(hint, value, where: str):
    if isinstance(hint, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not types.NoneType)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _read(hint, value, where)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(typing.get_args(hint)[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or isinstance(value, bool) != (hint is bool):
        raise RecipeError(f"{where} is {value!r}, but must be of type {hint.__name__}.")
    return value
