"""Synthesised images as a dataset, kept in the cache."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgekd import __version__
from edgekd.cache import StepCache, code_digest, step_key
from edgekd.data.fingerprint import digests, fingerprint
from edgekd.data.samples import Array, ArraySamples, Subset
from edgekd.data.source import Dataset
from edgekd.data.splits import calibration_count, hold_out, validation_count
from edgekd.graph.program import to_module
from edgekd.model.load import OpenedModel
from edgekd.model.program import LoadedModel, to_program
from edgekd.model.trace import Example
from edgekd.preprocessing import ImagePreprocessing
from edgekd.processes.group import by_first
from edgekd.progress import Progress
from edgekd.recipe import Synthesis
from edgekd.synthesis.distill import batch_sizes, distill_images
from edgekd.synthesis.requirements import ImageShape, check_network, example_images

SOURCE = "synthesised from the model's BatchNorm statistics"
VALIDATION_SHARE = 0.125
PHOTOGRAPH = 2.65  # how many deviations from the mean the pixels of photographs reach
_FILE = "images.npy"


@dataclass(frozen=True)
class ImagePlan:
    """Which images to make, for which model; ``seed`` decides them and their split.

    ``shape`` is (C, H, W).
    """

    loaded: LoadedModel
    shape: ImageShape
    options: Synthesis
    seed: int

    @property
    def key(self) -> str:
        """Key in the cache."""
        return step_key(
            {
                "what": "synthesised images",
                "model": self.loaded.sha256,
                "inputs": self.loaded.spec.to_dict(),
                "synthesis": self.options.model_dump(mode="json"),
                "seed": self.seed,
                "versions": {"edgekd": __version__, "torch": torch.__version__},
                "code": code_digest(),
            }
        )

    def describe(self) -> str:
        """Say in one line what will be made."""
        batches = len(batch_sizes(self.options.images, self.options.batch_size))
        return (
            f"{self.options.images} images from the model's BatchNorm statistics, "
            f"{self.options.steps} steps for each of {batches} batches"
        )


def plan_images(
    opened: OpenedModel,
    example: Example | None,
    shape: tuple[int, ...] | None,
    options: Synthesis,
    seed: int,
) -> ImagePlan:
    """Trace the model and check that images can be made for it.

    ``example`` is the batch that an exported program brings along, ``shape`` that of one sample.
    Raises ModelError, which names the alternatives.
    """
    name = opened.source["file"]
    loaded = to_program(opened, example or example_images(opened, shape, name))
    return ImagePlan(loaded, check_network(to_module(loaded.program), name), options, seed)


def synthesise(plan: ImagePlan, cache: StepCache, progress: Progress) -> dict[str, Any]:
    """Make the images unless the cache has them; return the cache's record of them.

    It holds ``images`` (count), ``loss`` (first, last) and ``seconds``. Of several processes the
    first one makes them.
    """
    return by_first(lambda: _synthesise(plan, cache, progress))


def _synthesise(plan: ImagePlan, cache: StepCache, progress: Progress) -> dict[str, Any]:
    if cache.folder(plan.key) is not None:
        progress.note("synthesis: already done, images taken from the cache")
        return cache.record(plan.key)
    options, module = plan.options, to_module(plan.loaded.program)
    steps = len(batch_sizes(options.images, options.batch_size)) * options.steps
    started = time.monotonic()
    with progress.task("synthesis: images", steps) as advance:
        found = distill_images(module, plan.shape, options, plan.seed, advance)
    content = io.BytesIO()
    np.save(content, found.images.numpy(), allow_pickle=False)
    record = {
        "images": len(found.images),
        "loss": list(found.losses),
        "seconds": round(time.monotonic() - started, 2),
    }
    cache.store(plan.key, {_FILE: content.getvalue()}, record)
    return record


def open_images(
    plan: ImagePlan,
    cache: StepCache,
    *,
    calibration_samples: int,
    trains: bool,
    preprocessing: ImagePreprocessing | None,
) -> Dataset:
    """Return the stored images as unlabelled data, dealt out by the plan's seed.

    An eighth validates. Of the rest, ``calibration_samples`` (at most a fifth) calibrate and the
    others train; where nothing ``trains``, all of the rest calibrate. ``preprocessing`` is for
    real images, later: those here are in the network's own input space.
    """
    folder = cache.folder(plan.key)
    assert folder is not None  # synthesise was called
    images = np.load(folder / _FILE, allow_pickle=False)
    name = plan.loaded.spec.inputs[0].name
    samples = ArraySamples({name: images}, None)
    count = validation_count(len(samples), VALIDATION_SHARE)
    rest, validation = hold_out(samples, count, plan.seed)
    train, calibration = Subset(rest, np.arange(0)), rest
    if trains:
        wanted = calibration_count(len(rest), calibration_samples)
        train, calibration = hold_out(rest, wanted, plan.seed)
    sets = {"train": train, "calibration": calibration, "validation": validation}
    prints = {key: fingerprint(part, digests(part), SOURCE) for key, part in sets.items()}
    return Dataset(
        train,
        calibration,
        validation,
        preprocessing,
        None,
        prints,
        notes=tuple(_notes(len(samples), preprocessing)),
        input_ranges={name: preprocessing.range() if preprocessing else usual_range(images)},
    )


def usual_range(images: Array) -> tuple[float, float]:
    """Return the range that pixels of real photographs have where these images stand for them.

    Synthesised pixels pile up on both sides of the mean (the generator ends in a tanh), while
    photographs of the same mean and deviation reach pure black and white. Those of ImageNet are
    (0 - 0.406) / 0.225 = -1.8 to (1 - 0.406) / 0.225 = 2.6 deviations from the mean in the
    channel that reaches highest, and down to -2.1 in another.
    """
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    lowest, highest = mean - PHOTOGRAPH * std, mean + PHOTOGRAPH * std
    return min(float(images.min()), float(lowest.min())), max(
        float(images.max()), float(highest.max())
    )


def _notes(count: int, preprocessing: ImagePreprocessing | None) -> Iterator[str]:
    yield (
        f"no data was given: {count} images were synthesised from the model's BatchNorm "
        "statistics, and similarity to the original is measured on such images; accuracy on real "
        "images is unknown"
    )
    if preprocessing is None:
        yield (
            "no --mean and --std were given: the bundle has no preprocessing, and inputs must be "
            "normalised as in training"
        )
