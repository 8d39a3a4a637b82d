"""A request for compression, with everything read and checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, assert_never

from edgekd import __version__
from edgekd.bench.machine import adds_in_16_bits, fingerprint, why_not_here
from edgekd.cache import StepCache, code_digest, default_cache, step_key
from edgekd.data.example import example_batch
from edgekd.data.exit_samples import with_exit_samples
from edgekd.data.fit import check_fit, check_ids, shape_text
from edgekd.data.samples import StoredSamples
from edgekd.data.source import Dataset, open_data
from edgekd.device import DeviceProfile, announce, load_profile
from edgekd.distillation.frozen import (
    Frozen,
    form_of,
    in_place_of,
    open_frozen,
    starts_as_onnx,
)
from edgekd.distillation.teachers import BlackBox, open_teacher
from edgekd.errors import DataError, MissingExtraError, ModelError, ProfileError, RecipeError
from edgekd.metrics import Budget
from edgekd.model.load import OpenedModel, open_model
from edgekd.model.lookup import table_sizes
from edgekd.model.program import LoadedModel, example_from_program, to_program
from edgekd.model.student import Form, load_student
from edgekd.preprocessing import ImagePreprocessing
from edgekd.processes.group import count as processes
from edgekd.progress import Progress, Silent
from edgekd.recipe import (
    DATA_FREE,
    PRUNED,
    PRUNED_FLOAT,
    STUDENT,
    STUDENT_FLOAT,
    EarlyExitStage,
    PruneStage,
    QuantizeStage,
    Recipe,
    SparsifyStage,
    Stage,
    check_recipe,
    doubts,
    load_recipe,
    taught_by,
    trainings,
    with_prune_budget,
    with_student,
    with_teachers,
)
from edgekd.runtime import openvino
from edgekd.synthesis.dataset import ImagePlan, open_images, plan_images, synthesise
from edgekd.training import training_device
from edgekd.training_settings import DistillStage

# The fields of a profile that change what a step computes or measures.
_DECIDING_FIELDS = {
    "runtime",
    "opset",
    "threads",
    "channel_multiple",
    "float_type",
    "layer_norm",
    "sparse_patterns",
    "peak_gmacs",
    "memory_gb_per_s",
    "layer_overhead_us",
}
_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch")


@dataclass(frozen=True)
class CompressRequest:
    """What the user asked for; every field but ``model`` has the command line's default.

    Without ``data``, images are synthesised from the model. ``unlabeled``, a folder of images or
    a .npz file, adds samples to those that distillation trains on. ``runtime`` limits what may be
    chosen to run the result: ``auto``, ``onnxruntime`` or ``openvino``. ``max_drop`` is in
    percentage points of the headline metric, ``max_nfr`` in per cent of all validation samples.
    ``input_shape`` has no batch axis. ``exit_data`` has labelled samples to choose early exits'
    thresholds on, by default those of validation; ``single_file`` asks for the early exits as one
    ONNX model too. ``student`` (``FILE.py:factory``) and ``student_weights`` take the place of what
    the recipe's first ``distill`` stage names; ``teachers`` (ONNX or .pt2 files) are added to its.
    """

    model: Path
    data: str | None
    arch: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_shape: tuple[int, ...] | None = None
    target: str = "cpu"
    recipe: str | None = None
    out: Path = Path("out")
    max_drop: float | None = None
    max_nfr: float | None = None
    speedup: float | None = None
    latency_ms: float | None = None
    runtime: str = "auto"
    trust_pickle: bool = False
    seed: int | None = None
    cache: Path | None = None
    unlabeled: str | None = None
    exit_data: str | None = None
    single_file: bool = False
    student: str | None = None
    student_weights: Path | None = None
    teachers: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A request with its profile, recipe and model read, but no samples yet.

    ``shape`` is that of one input sample as the request or the model gives it. ``images`` says
    which images are to be synthesised; None where there is data.
    """

    request: CompressRequest
    profile: DeviceProfile
    recipe: Recipe
    opened: OpenedModel | None  # None where the model is ``frozen``
    shape: tuple[int, ...] | None
    cache: StepCache
    images: ImagePlan | None
    frozen: Frozen | None = None

    def notes(self) -> tuple[str, ...]:
        """Say which device this is for, and what of the recipe may be useless there."""
        return (announce(self.request.target, self.profile), *doubts(self.recipe, self.profile))


@dataclass(frozen=True)
class Job:
    """The request with everything read and checked, before any work.

    ``synthesis`` is the record of the images that were made where no data was given, else None.
    ``exit_samples`` are those of the request's ``exit_data``, if there are any. ``student`` is what
    a ``distill`` stage is to train, and ``teachers`` are the files that teach beside the original.
    ``frozen`` is the original where it is an ONNX model; ``loaded`` then has the student's program.
    """

    request: CompressRequest
    profile: DeviceProfile
    recipe: Recipe
    loaded: LoadedModel
    data: Dataset
    cache: StepCache
    synthesis: Mapping[str, Any] | None = None
    exit_samples: StoredSamples | None = None
    student: LoadedModel | None = None
    teachers: tuple[BlackBox, ...] = ()
    frozen: bytes | None = None

    @property
    def budget(self) -> Budget:
        """How much accuracy the user is willing to lose."""
        return Budget(self.request.max_drop, self.request.max_nfr)

    def key(self, stage_count: int, *, for_budget: bool = False) -> str:
        """Return the cache key of the step after the first ``stage_count`` stages.

        The machine is part of it, since a step's record holds a latency measured there, and whether
        it is like the target, without which there is none, and how its runtime adds. So is whether
        training runs on a GPU, which computes other numbers, and in how many processes, which add
        up in another order.
        ``for_budget``: the key of a step that was changed in order to hold the budget.
        """
        more: dict[str, Any] = {"budget": asdict(self.budget)} if for_budget else {}
        if stage_count and processes() > 1:
            more["processes"] = processes()
        distilled = any(isinstance(s, DistillStage) for s in self.recipe.stages[:stage_count])
        if distilled or self.frozen is not None:
            more["student"] = self.student and self.student.sha256
            more["teachers"] = [teacher.sha256 for teacher in self.teachers]
        return step_key(
            {
                **more,
                "model": self.loaded.sha256,
                "inputs": self.loaded.spec.to_dict(),
                # The samples that thresholds are chosen on decide nothing before that.
                "data": {n: f for n, f in self.data.fingerprints.items() if n != "exits"},
                "preprocessing": self.data.preprocessing and self.data.preprocessing.to_dict(),
                "profile": self.profile.model_dump(mode="json", include=_DECIDING_FIELDS),
                "seed": self.recipe.seed,
                "stages": [_settings(s) for s in self.recipe.stages[:stage_count]],
                "versions": versions(),
                "machine": fingerprint(),
                "timed": why_not_here(self.profile) is None,
                "sums_of_16_bits": adds_in_16_bits(self.profile),
                "trained_on": training_device().type,
                "code": code_digest(),
            }
        )


def _settings(stage: Stage) -> dict[str, Any]:
    """Return the settings that decide what a stage makes of a model."""
    if isinstance(stage, EarlyExitStage):
        return stage.trained_settings()
    if isinstance(stage, DistillStage):
        return stage.content()
    return stage.model_dump(mode="json")


def prepare(request: CompressRequest, progress: Progress | None = None) -> Job:
    """Read everything, cheapest first, so that mistakes show before long work.

    The one long work here is to synthesise images where the request has no data.
    """
    return complete(draft(request), progress or Silent())


def draft(request: CompressRequest) -> Draft:
    """Read and check all but the samples."""
    profile = load_profile(request.target)
    _check_runtime(request.runtime, profile)
    recipe = _recipe(request, profile)
    if request.seed is not None:
        recipe = recipe.model_copy(update={"seed": request.seed})
    check_recipe(recipe, profile)
    _check_exit_options(request, recipe)
    if request.data is None:
        _refuse_limits(request)
        if request.unlabeled is not None:
            raise DataError(
                "--unlabeled needs --data: without labelled samples nothing tells how good the "
                "result is; give them, or the unlabelled samples as --data"
            )
        if request.exit_data is not None:
            raise DataError("--exit-data needs --data: heads have to be trained on something")
    if _is_frozen(request, recipe):
        return _frozen_draft(request, profile, recipe)
    opened = open_model(request.model, arch=request.arch, trust_pickle=request.trust_pickle)
    example = example_from_program(opened)
    own = tuple(example[0].shape[1:]) if example else None
    if own and request.input_shape and request.input_shape != own:
        raise ModelError(
            f"--input-shape {shape_text(request.input_shape)} contradicts {request.model.name}, "
            f"which was exported for {shape_text(own)}; leave it out"
        )
    shape = request.input_shape or own
    images = None
    if request.data is None:
        images = plan_images(opened, example, shape, recipe.synthesis, recipe.seed)
        _image_preprocessing(request, images.shape[0])
    cache = StepCache(request.cache or default_cache())
    return Draft(request, profile, recipe, opened, shape, cache, images)


def _is_frozen(request: CompressRequest, recipe: Recipe) -> bool:
    """Tell whether the model is an ONNX file whose place a student takes at once."""
    first = recipe.stages[0]
    student = isinstance(first, DistillStage) and first.student is not None
    return student and starts_as_onnx(request.model)


def _frozen_draft(request: CompressRequest, profile: DeviceProfile, recipe: Recipe) -> Draft:
    if request.data is None:
        raise DataError(
            f"{request.model.name} is an ONNX model, of which nothing but answers is known: give "
            "--data, since images are synthesised from what lies within a network"
        )
    frozen = open_frozen(request.model)
    recipe = taught_by(recipe, request.model)
    cache = StepCache(request.cache or default_cache())
    return Draft(request, profile, recipe, None, request.input_shape, cache, None, frozen)


def _check_exit_options(request: CompressRequest, recipe: Recipe) -> None:
    """Raise RecipeError for what only early exits can use."""
    exits = any(
        isinstance(stage, EarlyExitStage) and not stage.auxiliary for stage in recipe.stages
    )
    for option, given in (
        ("--exit-data", request.exit_data),
        ("--single-file", request.single_file),
    ):
        if given and not exits:
            raise RecipeError(
                f"{option} is for early exits, and recipe {recipe.name} has none; give a recipe "
                "with an early_exit stage, or leave the option out"
            )


def _recipe(request: CompressRequest, profile: DeviceProfile) -> Recipe:
    """Return the recipe asked for, or the default, with the request's budget for pruning."""
    budgets = {"speedup": request.speedup, "latency_ms": request.latency_ms}
    given = {key: value for key, value in budgets.items() if value is not None}
    if len(given) > 1:
        raise RecipeError("--speedup and --latency-ms are two budgets for pruning: give one")
    default = profile.recipe if request.data is not None else DATA_FREE
    if given:
        default = PRUNED if profile.int8 != "none" else PRUNED_FLOAT
    wants_student = request.student is not None or request.student_weights is not None
    if (wants_student or request.teachers) and not given:
        default = STUDENT if profile.int8 != "none" else STUDENT_FLOAT
    recipe = load_recipe(request.recipe or default)
    if wants_student:
        recipe = with_student(recipe, request.student, request.student_weights)
    if request.teachers:
        recipe = with_teachers(recipe, request.teachers)
    for key, value in given.items():
        recipe = with_prune_budget(recipe, key, value)
    return recipe


def complete(draft: Draft, progress: Progress) -> Job:
    """Read the samples, or synthesise them, and check that they fit the model.

    The draft's notes are said once nothing can be wrong with the request any more.
    """
    if draft.images is not None:
        _say_notes(draft, progress)
        return _with_images(draft, draft.images, progress)
    request, recipe, shape = draft.request, draft.recipe, draft.shape
    assert request.data is not None  # a draft without images has data
    data = open_data(
        request.data,
        mean=request.mean,
        std=request.std,
        image_size=shape if shape is not None and len(shape) == 3 else None,
        calibration_samples=_calibration_samples(recipe),
        seed=recipe.seed,
        unlabeled=request.unlabeled,
    )
    loaded, data, student, teachers = _models(draft, data)
    check_fit(data, loaded.spec, request.input_shape)
    check_ids(data, table_sizes(loaded.program, loaded.spec))
    exits = None
    if request.exit_data is not None:
        classes = loaded.spec.outputs[0].shape[-1]
        data, exits = with_exit_samples(data, request.exit_data, classes)
    _say_notes(draft, progress)
    return Job(
        request,
        draft.profile,
        recipe,
        loaded,
        data,
        draft.cache,
        exit_samples=exits,
        student=student,
        teachers=teachers,
        frozen=None if draft.frozen is None else draft.frozen.content,
    )


Teachers = tuple[BlackBox, ...]


def _models(
    draft: Draft, data: Dataset
) -> tuple[LoadedModel, Dataset, LoadedModel | None, Teachers]:
    """Return the model, the data with the model's names, the student and further teachers."""
    if (frozen := draft.frozen) is not None:
        data = data.bind(frozen.inputs)
        form = form_of(frozen, data)
        student, teachers = _for_distillation(draft.recipe, form)
        assert student is not None  # the draft has seen its name
        return in_place_of(frozen, form, student), data, student, teachers
    opened = draft.opened
    assert opened is not None  # a draft has one of the two
    loaded = to_program(opened, example_from_program(opened) or example_batch(data, opened))
    data = data.bind([tensor.name for tensor in loaded.spec.inputs])
    return loaded, data, *_for_distillation(draft.recipe, loaded)


def _for_distillation(recipe: Recipe, loaded: Form) -> tuple[LoadedModel | None, Teachers]:
    """Build the student and open the files of teachers that ``distill`` stages name."""
    stages = [stage for stage in recipe.stages if isinstance(stage, DistillStage)]
    student = None
    if stages and stages[0].student is not None:
        weights = stages[0].student_weights
        student = load_student(
            stages[0].student, None if weights is None else Path(weights), loaded, seed=recipe.seed
        )
    files = dict.fromkeys(other.file for stage in stages for other in stage.teachers)
    return student, tuple(open_teacher(Path(file), loaded) for file in files)


def _say_notes(draft: Draft, progress: Progress) -> None:
    for line in draft.notes():
        progress.note(line)


def _with_images(draft: Draft, plan: ImagePlan, progress: Progress) -> Job:
    """Take images from the cache, or make them."""
    request, recipe = draft.request, draft.recipe
    if request.recipe is None:
        progress.note(f"no --data and no --recipe: the recipe is {recipe.name}")
    student, teachers = _for_distillation(recipe, plan.loaded)
    record = synthesise(plan, draft.cache, progress)
    data = open_images(
        plan,
        draft.cache,
        calibration_samples=_calibration_samples(recipe),
        trains=any(trainings(stage) for stage in recipe.stages),
        preprocessing=_image_preprocessing(request, plan.shape[0]),
    )
    return Job(
        request,
        draft.profile,
        recipe,
        plan.loaded,
        data,
        draft.cache,
        record,
        student=student,
        teachers=teachers,
    )


def _refuse_limits(request: CompressRequest) -> None:
    """Raise DataError for a limit on accuracy, which nobody can know without real data."""
    for option, limit in (("--max-drop", request.max_drop), ("--max-nfr", request.max_nfr)):
        if limit is not None:
            raise DataError(
                f"{option} needs --data: without it accuracy on real samples is not known; leave "
                "the limit out, or give labelled samples"
            )


def _image_preprocessing(request: CompressRequest, channels: int) -> ImagePreprocessing | None:
    """Return what the bundle will do to uint8 images, from --mean and --std alone."""
    if request.mean is None or request.std is None:
        return None
    for option, values in (("--mean", request.mean), ("--std", request.std)):
        if len(values) != channels:
            raise DataError(
                f"{option} has {len(values)} values, but images have {channels} channels"
            )
    return ImagePreprocessing("NHWC", request.mean, request.std)


def _check_runtime(wanted: str, profile: DeviceProfile) -> None:
    """Raise ProfileError or MissingExtraError when ``--runtime`` cannot be measured here."""
    if wanted not in ("auto", "onnxruntime", "openvino"):
        raise ProfileError(f"unknown runtime {wanted!r}: give auto, onnxruntime or openvino")
    if wanted != "openvino":
        return
    if reason := why_not_here(profile):
        raise ProfileError(
            f"--runtime openvino: nothing can be timed here for {profile.name}, since {reason}; "
            "leave --runtime out"
        )
    if not openvino.is_installed():
        raise MissingExtraError('--runtime openvino needs OpenVINO: pip install "edgekd[openvino]"')


def _calibration_samples(recipe: Recipe) -> int:
    return max(_samples(stage) for stage in recipe.stages)


def _samples(stage: Stage) -> int:
    """Return how many calibration samples a stage asks for."""
    match stage:
        case QuantizeStage():
            return stage.calibration.samples
        case SparsifyStage() | PruneStage():
            return stage.samples
        case EarlyExitStage() | DistillStage():
            return 512  # they judge whether a training helped
        case _:
            assert_never(stage)


def versions() -> dict[str, str]:
    """Return the versions of edgekd and of the libraries that decide a result."""
    return {"edgekd": __version__, **{name: metadata.version(name) for name in _PACKAGES}}
