"""What to do to a model, as typed settings: a recipe is data and cannot run code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import yaml
from pydantic import Field

from edgekd.device import DeviceProfile, data_root, is_file_name
from edgekd.errors import RecipeError
from edgekd.settings import Number, Settings, SettingsError, nearest, read

Count = Annotated[int, Field(ge=1, strict=True)]
DATA_FREE = "int8-data-free"  # the recipe where neither data nor a recipe is given


class Calibration(Settings):
    """How activation ranges are found: ``samples`` training inputs seen by ``method``."""

    samples: Count = 512
    method: Literal["minmax", "percentile", "mse", "entropy"] = "mse"


class Distill(Settings):
    """Quantization-aware training against the original model's outputs.

    ``loss``: ``kl`` compares class probabilities at ``temperature``, ``standardized-kl`` those of
    z-scored logits, ``top-k-kl`` those of the ``top_k`` likeliest classes, ``mse`` raw outputs;
    ``auto`` is ``kl`` for class logits and ``mse`` otherwise. ``feature_weight`` times the error of
    the tensors between blocks is added. ``hard_label_weight`` (0 to 1) is the share of the labels'
    cross entropy. Training takes ``epochs`` passes over the data, but at most ``max_steps``
    optimiser steps. ``augment`` applies to images only. ``ema`` is the decay of a moving average
    of the weights, which is kept in their place. ``mixed_precision`` is for CUDA.
    """

    loss: Literal["auto", "kl", "standardized-kl", "top-k-kl", "mse"] = "auto"
    temperature: Annotated[Number, Field(gt=0)] = 4.0
    top_k: Count = 5
    feature_weight: Annotated[Number, Field(ge=0)] = 0.0
    hard_label_weight: Annotated[Number, Field(ge=0, le=1)] = 0.0
    epochs: Count = 3
    max_steps: Count = 2000
    batch_size: Count = 64
    learning_rate: Annotated[Number, Field(gt=0)] = 1e-5
    augment: Literal["none", "crop", "crop-flip"] = "crop-flip"
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = None
    mixed_precision: Annotated[bool, Field(strict=True)] = False


Bits = Literal["w8a8", "w4a8", "w4a16", "float"]


class LayerBits(Settings):
    """The ``bits`` of all layers whose name fits ``match``: ``*`` stands for any characters."""

    match: Annotated[str, Field(min_length=1)]
    bits: Bits


class QuantizeStage(Settings):
    """Integer weights and activations; ``distill: null`` is post-training quantization only.

    ``bits`` is for all layers: weights and activations of 8 bits, weights of 4 and activations of
    8, weights alone of 4 (in groups of ``group_size`` inputs), or the target's float type. An entry
    of ``layers`` changes that for the layers that it names; of two that fit the later one counts.
    With ``keep_ends`` the first and the last layer take 4 bits only where an entry says so.

    ``equalize`` rescales channels before calibration. Behind it, ``rounding: adaround`` learns in
    ``rounding_steps`` steps a block which weights to round up, and ``bias_correction`` takes the
    mean error out of every layer's output. Distillation starts from the result. ``sensitivity``
    measures what each layer costs alone on ``sensitivity_samples`` validation samples; a missed
    accuracy budget does so in any case.
    """

    stage: Literal["quantize"]
    bits: Bits = "w8a8"
    keep_ends: Annotated[bool, Field(strict=True)] = True
    group_size: Literal[16, 32, 64, 128, 256] = 32
    layers: tuple[LayerBits, ...] = ()
    calibration: Calibration = Calibration()
    equalize: Annotated[bool, Field(strict=True)] = False
    rounding: Literal["nearest", "adaround"] = "nearest"
    rounding_steps: Count = 100
    bias_correction: Annotated[bool, Field(strict=True)] = False
    learn_step_sizes: Annotated[bool, Field(strict=True)] = False
    distill: Distill | None = Distill()
    sensitivity: Annotated[bool, Field(strict=True)] = False
    sensitivity_samples: Count = 512


# One kind so far. With a second one this becomes
# Annotated[QuantizeStage | PruneStage, Field(discriminator="stage")]; pydantic wants two for that.
Stage: TypeAlias = QuantizeStage


class Synthesis(Settings):
    """Images made from the model where no data is given; ``steps`` are those of each batch."""

    images: Annotated[int, Field(ge=16, strict=True)] = 128
    batch_size: Annotated[int, Field(ge=2, strict=True)] = 128
    steps: Count = 150


class Recipe(Settings):
    """The stages, in the order they run, and the seed of everything random in them.

    ``synthesis`` matters only where no data is given.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0
    synthesis: Synthesis = Synthesis()


def list_recipes() -> tuple[str, ...]:
    """Return the names of the shipped recipes."""
    return tuple(sorted(path.stem for path in (data_root() / "recipes").glob("*.yaml")))


def load_recipe(name_or_path: str) -> Recipe:
    """Return a shipped recipe by name, or one from a YAML file.

    Raises RecipeError for an unknown name, or with every mistake of the file.
    """
    if is_file_name(name_or_path):
        return _read_recipe(Path(name_or_path))
    names = list_recipes()
    if name_or_path not in names:
        raise RecipeError(
            f"unknown recipe {name_or_path!r}{nearest(name_or_path, names)}; "
            f"shipped: {', '.join(names)}; or give a YAML file"
        )
    return _read_recipe(data_root() / "recipes" / f"{name_or_path}.yaml")


def recipe_to_yaml(recipe: Recipe) -> str:
    """Return YAML that ``load_recipe`` reads back as an equal recipe."""
    data = recipe.model_dump(mode="json")
    ordered = {key: data[key] for key in ("name", "seed", "synthesis", "stages")}
    return yaml.safe_dump(ordered, sort_keys=False)


def check_recipe(recipe: Recipe, profile: DeviceProfile) -> None:
    """Raise RecipeError when the stages cannot run in this order for this device."""
    mistakes = _order_mistakes([stage.stage for stage in recipe.stages])
    if mistakes:
        raise RecipeError(f"recipe {recipe.name} for {profile.name}: {'; '.join(mistakes)}")


def _order_mistakes(kinds: list[str]) -> list[str]:
    """Name what is out of place; ``quantize`` fixes the weights' grid, so nothing may follow."""
    mistakes = []
    for index, kind in enumerate(kinds):
        if kind in kinds[:index]:
            mistakes.append(f"stages[{index}]: {kind} runs at most once")
        elif kind == "quantize" and any(later != "quantize" for later in kinds[index + 1 :]):
            mistakes.append(f"stages[{index}]: quantize must be the last stage")
    return mistakes


def _read_recipe(path: Path) -> Recipe:
    try:
        return read(path, Recipe)
    except SettingsError as error:
        raise RecipeError(f"recipe {path}: {error}") from None
