"""What to do to a model, as typed settings: a recipe is data.

One key of it names code of the user's: ``student`` of a ``distill`` stage, as ``--arch`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import yaml
from pydantic import Field, field_validator, model_validator

from edgekd.device import DeviceProfile, data_root, is_file_name
from edgekd.errors import RecipeError
from edgekd.loss_settings import Count
from edgekd.settings import Number, Settings, SettingsError, nearest, read, validate
from edgekd.training_settings import Distill, DistillStage, OtherTeacher, Recovery, Training

DATA_FREE = "int8-data-free"  # the recipe where neither data nor a recipe is given
PRUNED = "pruned-int8-distilled"  # where a speed is asked for and no recipe is given
PRUNED_FLOAT = "pruned-distilled"  # the same for a device without INT8
STUDENT = "student-int8-distilled"  # where a student is given and no recipe
STUDENT_FLOAT = "student-distilled"  # the same for a device without INT8
ENSEMBLE = "student-ensemble"  # the one that needs further teachers


class Calibration(Settings):
    """How activation ranges are found: ``samples`` training inputs seen by ``method``."""

    samples: Count = 512
    method: Literal["minmax", "percentile", "mse", "entropy"] = "mse"


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


PRUNE_BUDGETS = ("speedup", "latency_ms", "macs", "parameters")


class PruneStage(Settings):
    """Whole channels, heads, neurons and blocks are taken out until a budget holds.

    Exactly one budget: ``speedup`` (of the float model on the target), ``latency_ms``, or the share
    of multiplications (``macs``) or ``parameters`` that may stay. It is reached in ``steps`` steps,
    with distillation after each. ``importance`` ranks the units of one layer; ``across`` says how
    layers are weighed against each other: by the measured damage of narrowing each alone, by the
    sum of normalised importance, or not at all (the same share everywhere). Widths stay multiples
    of ``multiple``, by default the profile's. ``blocks`` lets whole residual blocks go. ``samples``
    calibration samples measure importance and damage. ``distill`` is the training after the last
    step; those before it take ``step_epochs`` epochs.
    ``on_unprunable`` is for layers that the analysis cannot follow: end with an error that names
    the line of the model, or go on with the rest.
    """

    stage: Literal["prune"]
    step_epochs: Count = 1
    speedup: Annotated[Number, Field(gt=1)] | None = None
    latency_ms: Annotated[Number, Field(gt=0)] | None = None
    macs: Annotated[Number, Field(gt=0, lt=1)] | None = None
    parameters: Annotated[Number, Field(gt=0, lt=1)] | None = None
    steps: Count = 3
    importance: Literal["l1", "l2", "bn-scale", "taylor", "activation"] = "taylor"
    across: Literal["damage", "importance", "uniform"] = "damage"
    blocks: Annotated[bool, Field(strict=True)] = True
    multiple: Count | None = None
    on_unprunable: Literal["skip", "error"] = "error"
    samples: Count = 512
    distill: Recovery | None = Recovery()

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if len(self.budget()) > 1:
            raise ValueError(f"give one budget, not {' and '.join(self.budget())}")
        return self

    def budget(self) -> dict[str, float]:
        """Return the budget's key and value; empty where the recipe leaves it to the command."""
        values = {key: getattr(self, key) for key in PRUNE_BUDGETS}
        return {key: value for key, value in values.items() if value is not None}

    def with_budget(self, key: str, value: float) -> PruneStage:
        """Return the same stage with another budget; raises SettingsError for a bad value."""
        cleared = self.model_dump() | dict.fromkeys(PRUNE_BUDGETS) | {key: value}
        return validate(cleared, PruneStage)


class SparsifyStage(Settings):
    """Single weights become zero, in a ``pattern``, and stay zero from then on.

    ``pattern``: ``unstructured`` and ``block`` (of ``block`` = [outputs, inputs] weights) leave out
    ``sparsity`` of the weights; ``N:M`` (``2:4``) keeps N of every M weights along the inputs.
    ``method`` chooses the first mask: by magnitude, or ``sparsegpt`` from ``samples`` calibration
    samples, which also corrects the other weights. The sparsity rises by a cubic schedule over the
    first ``ramp`` of all training steps; then masks are frozen. With ``keep_ends`` the first and
    the last layer stay dense. ``if_no_gain``: what to do where the target's runtime does not run
    the pattern faster.
    """

    stage: Literal["sparsify"]
    pattern: Annotated[str, Field(pattern=r"^(unstructured|block|[1-9]\d?:[1-9]\d?)$")] = "2:4"
    sparsity: Annotated[Number, Field(gt=0, lt=1)] | None = None
    block: tuple[Count, Count] = (4, 1)
    method: Literal["magnitude", "sparsegpt"] = "magnitude"
    samples: Count = 512
    ramp: Annotated[Number, Field(ge=0, lt=1)] = 0.5
    keep_ends: Annotated[bool, Field(strict=True)] = True
    if_no_gain: Literal["skip", "run"] = "run"
    distill: Recovery | None = Recovery()


class ExitHeads(Distill):
    """Training of the exits' heads against the final output of the model that they sit on.

    The keys are those of ``distill`` in a quantize stage. ``feature_weight`` compares what a head
    makes of its tensor with the last tensor between two blocks, where the sizes agree.
    """

    epochs: Count = 5
    max_steps: Count = 20000
    batch_size: Count = 128
    optimizer: Literal["auto", "adamw", "sgd"] = "auto"
    learning_rate: Annotated[Number, Field(gt=0)] | None = None


class OperatingPoint(Settings):
    """What early exits may cost: ``max_drop`` points of accuracy below the model without them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    max_drop: Annotated[Number, Field(ge=0)]


class EarlyExitStage(Settings):
    """Heads in the middle of a classifier, at which sure samples leave.

    ``at`` names the modules behind which a head is put (``*`` for any name between two dots);
    without it, ``candidates`` places are taken at about equal latency. ``head``: ``linear`` is
    pooling and one layer, ``conv`` convolutions, ``attention`` self-attention of a part of the
    tokens; ``auto`` takes what fits the tensor and its depth. ``joint`` trains backbone and heads
    together against the original, the loss of an exit weighted by ``exit_weight`` times its depth;
    null leaves the backbone as it is, to the last bit. Then ``heads`` trains the heads alone. With
    ``auxiliary`` they serve the training only, and the model comes out without exits.

    Thresholds on ``confidence`` (largest probability, margin between the two largest, or 1 minus
    the normalised entropy) are chosen for every one of ``operating_points``, the first of which is
    the default. What such a point promises is tested at the level ``certainty``. A sample that goes
    to the end may take longer than without exits by the share ``max_overhead``, which limits how
    many exits are kept.
    """

    stage: Literal["early_exit"]
    at: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    candidates: Annotated[int, Field(ge=1, le=6, strict=True)] = 4
    head: Literal["auto", "linear", "conv", "attention"] = "auto"
    exit_weight: Annotated[Number, Field(gt=0)] = 1.0
    joint: Recovery | None = Recovery(feature_weight=0.0)
    heads: ExitHeads | None = ExitHeads()
    auxiliary: Annotated[bool, Field(strict=True)] = False
    confidence: Literal["probability", "margin", "entropy"] = "probability"
    operating_points: Annotated[tuple[OperatingPoint, ...], Field(min_length=1)] = (
        OperatingPoint(name="default", max_drop=0.5),
        OperatingPoint(name="fast", max_drop=2.0),
    )
    certainty: Annotated[Number, Field(ge=0.5, lt=1)] = 0.95
    max_overhead: Annotated[Number, Field(ge=0)] = 0.25

    @field_validator("joint", mode="before")
    @classmethod
    def _no_features_unless_asked(cls, value: object) -> object:
        """Keep the default of ``feature_weight`` where only other keys of ``joint`` are given."""
        return {"feature_weight": 0.0, **value} if isinstance(value, dict) else value

    def trained_settings(self) -> dict[str, Any]:
        """Return what decides the model that comes out: all but what thresholds are chosen by."""
        chosen_later = {"confidence", "operating_points", "certainty", "max_overhead"}
        return self.model_dump(mode="json", exclude=chosen_later)

    @model_validator(mode="after")
    def _some_training(self) -> Self:
        if self.joint is None and (self.heads is None or self.auxiliary):
            raise ValueError("'joint' is null, so that nothing would be trained")
        names = [point.name for point in self.operating_points]
        if len(set(names)) != len(names) or "full" in names:
            raise ValueError("operating_points need different names, other than 'full'")
        if any(name.endswith("-uncertified") for name in names):
            raise ValueError("'-uncertified' stands behind names of points that cannot be promised")
        return self


def trainings(stage: Stage) -> list[Training]:
    """Return the trainings of a stage, none for one that only rewrites."""
    if isinstance(stage, DistillStage):
        return [stage]
    if isinstance(stage, EarlyExitStage):
        return [training for training in (stage.joint, stage.heads) if training is not None]
    return [] if stage.distill is None else [stage.distill]


Stage: TypeAlias = Annotated[
    DistillStage | PruneStage | SparsifyStage | EarlyExitStage | QuantizeStage,
    Field(discriminator="stage"),
]


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


def with_prune_budget(recipe: Recipe, key: str, value: float) -> Recipe:
    """Return the recipe with another budget for its prune stage.

    Raises RecipeError when it has none.
    """
    if not any(isinstance(stage, PruneStage) for stage in recipe.stages):
        option = f"--{key.replace('_', '-')}"
        raise RecipeError(
            f"{option} needs a recipe with a prune stage, which {recipe.name} does not have; "
            "give --recipe pruned-int8-distilled, or leave --recipe out"
        )
    try:
        stages = tuple(
            stage.with_budget(key, value) if isinstance(stage, PruneStage) else stage
            for stage in recipe.stages
        )
    except SettingsError as error:
        raise RecipeError(f"--{str(error).replace('_', '-', 1)}") from None
    return recipe.model_copy(update={"stages": stages})


def with_student(recipe: Recipe, student: str | None, weights: Path | None) -> Recipe:
    """Return the recipe with another student for its first distill stage.

    Raises RecipeError when it has none, or only weights are given and it names no student.
    """
    index = next((i for i, s in enumerate(recipe.stages) if isinstance(s, DistillStage)), None)
    if index is None:
        raise RecipeError(
            f"--student needs a recipe with a distill stage, which {recipe.name} does not have; "
            f"give --recipe {STUDENT}, or leave --recipe out"
        )
    stage = recipe.stages[index]
    assert isinstance(stage, DistillStage)
    if student is None and stage.student is None:
        raise RecipeError("--student-weights needs --student, which builds the network for them")
    changed: dict[str, object] = {"student_weights": None if weights is None else str(weights)}
    if student is not None:
        changed["student"] = student
    stages = (*recipe.stages[:index], stage.model_copy(update=changed), *recipe.stages[index + 1 :])
    return recipe.model_copy(update={"stages": stages})


def with_teachers(recipe: Recipe, files: Sequence[Path]) -> Recipe:
    """Return the recipe with further teachers, of weight 1, for its first distill stage.

    Raises RecipeError when it has none.
    """
    index = next((i for i, s in enumerate(recipe.stages) if isinstance(s, DistillStage)), None)
    if index is None:
        raise RecipeError(
            f"--teacher needs a recipe with a distill stage, which {recipe.name} does not have; "
            f"give --recipe {ENSEMBLE}, or leave --recipe out"
        )
    stage = recipe.stages[index]
    assert isinstance(stage, DistillStage)
    named = (*stage.teachers, *(OtherTeacher(file=str(file)) for file in files))
    stages = list(recipe.stages)
    stages[index] = stage.model_copy(update={"teachers": named})
    return recipe.model_copy(update={"stages": tuple(stages)})


def taught_by(recipe: Recipe, file: Path) -> Recipe:
    """Return the recipe with a file in the original's place as a teacher of ``distill`` stages."""

    def changed(index: int, stage: DistillStage) -> DistillStage:
        previous = stage.teacher == "previous" and index > 0  # taught by what the file taught
        if stage.original_weight == 0 or previous:
            return stage
        own = OtherTeacher(file=str(file), weight=stage.original_weight)
        update = {"teachers": (own, *stage.teachers), "original_weight": 0.0}
        return stage.model_copy(update=update)

    stages = (
        changed(index, stage) if isinstance(stage, DistillStage) else stage
        for index, stage in enumerate(recipe.stages)
    )
    return recipe.model_copy(update={"stages": tuple(stages)})


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
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, DistillStage) and stage.student is not None and index > 0:
            mistakes.append(
                f"stages[{index}]: distill with a student must be the first stage, since the "
                "student starts anew and what was done to the model before would be lost; without "
                "'student' it trains the model as it is"
            )
        if isinstance(stage, PruneStage) and not stage.budget():
            keys = ", ".join(PRUNE_BUDGETS)
            mistakes.append(
                f"stages[{index}]: prune needs a budget: {keys}; or --speedup or --latency-ms"
            )
        if isinstance(stage, QuantizeStage) and profile.int8 == "none":
            mistakes.append(
                f"stages[{index}]: quantize gains nothing on {profile.title}, which has no integer "
                f"kernels; give --recipe {PRUNED_FLOAT}, which stays in float and needs --data"
            )
        behind = {earlier.stage for earlier in recipe.stages[:index]}
        if isinstance(stage, EarlyExitStage) and stage.joint and "quantize" in behind:
            mistakes.append(
                f"stages[{index}]: early_exit behind quantize needs 'joint: null', since training "
                "would take the backbone off its grid; or put it before quantize"
            )
    if mistakes:
        raise RecipeError(f"recipe {recipe.name} for {profile.name}: {'; '.join(mistakes)}")


def doubts(recipe: Recipe, profile: DeviceProfile) -> list[str]:
    """Say what of a recipe that can run may not pay on this device."""
    if profile.int8 != "slow" or all(stage.stage != "quantize" for stage in recipe.stages):
        return []
    return [
        f"{profile.name} has no instructions for INT8: quantizing makes the file smaller, but "
        "perhaps not the model faster; measure with `edgekd bench` there"
    ]


def _order_mistakes(kinds: list[str]) -> list[str]:
    """Name what is out of place: prune, then sparsify, then the others, each at most once.

    Only distill may come again: a student can learn in several phases.
    """
    reasons = {
        (
            "quantize",
            "distill",
        ): "distill trains in float, and quantize fixes the weights to a grid",
        (
            "sparsify",
            "distill",
        ): "training would fill the zeros; sparsify has a 'distill' of its own",
        ("early_exit", "distill"): "heads learn from the tensors that they find",
        ("quantize", "prune"): "prune trains in float, and quantize fixes the weights to a grid",
        ("quantize", "sparsify"): "sparsify trains in float, and quantize fixes the weights' grid",
        ("sparsify", "prune"): "taking out channels would break the pattern of zeros",
        ("early_exit", "prune"): "heads are made for the widths that they find",
        ("early_exit", "sparsify"): "heads learn from the tensors that they find",
    }
    mistakes = []
    for index, kind in enumerate(kinds):
        if kind in kinds[:index] and kind != "distill":
            mistakes.append(f"stages[{index}]: {kind} runs at most once")
        for earlier in dict.fromkeys(kinds[:index]):
            if (earlier, kind) in reasons:
                why = reasons[earlier, kind]
                mistakes.append(f"stages[{index}]: {kind} must come before {earlier}: {why}")
    return mistakes


def _read_recipe(path: Path) -> Recipe:
    try:
        return read(path, Recipe)
    except SettingsError as error:
        raise RecipeError(f"recipe {path}: {error}") from None
