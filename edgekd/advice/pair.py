"""A teacher, a student and data, opened and held against each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgekd.data.example import example_batch
from edgekd.data.fit import check_fit, check_ids
from edgekd.data.samples import Array, Indices, Samples
from edgekd.data.source import Dataset, open_data
from edgekd.errors import DataError, EdgekdError, ModelError
from edgekd.graph.program import to_module
from edgekd.model.load import OpenedModel, open_model
from edgekd.model.lookup import table_sizes
from edgekd.model.program import LoadedModel, example_from_program, to_program
from edgekd.model.student import check_outputs
from edgekd.model.user_code import call_factory, is_factory
from edgekd.spec import ModelSpec

BATCH = 64


@dataclass(frozen=True)
class AdviceRequest:
    """What the user asked for; every field but the first three has the command line's default.

    ``student`` is a model file, or ``FILE.py:factory`` for a network that nobody has trained yet.
    ``arch`` and ``student_arch`` build the networks of checkpoints. ``input_shape`` has no batch
    axis. ``samples`` is the most that are looked at of each set.
    """

    teacher: Path
    student: str
    data: str
    arch: str | None = None
    student_arch: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_shape: tuple[int, ...] | None = None
    unlabeled: str | None = None
    trust_pickle: bool = False
    seed: int = 0
    samples: int = 5000


@dataclass(frozen=True)
class Network:
    """One network of the pair: in eval mode on the CPU, and the data under its inputs' names."""

    module: fx.GraphModule
    spec: ModelSpec
    example: tuple[Tensor, ...]
    data: Dataset

    def inputs(self, samples: Samples, indices: Indices) -> tuple[tuple[Tensor, ...], Array | None]:
        """Return a batch of inputs in call order, and its targets."""
        arrays, targets = self.data.inputs(samples, indices)
        return tuple(torch.from_numpy(arrays[t.name]) for t in self.spec.inputs), targets


@dataclass(frozen=True)
class Pair:
    """Both networks. ``trained`` tells whether the student has weights that were trained."""

    teacher: Network
    student: Network
    trained: bool

    @property
    def data(self) -> Dataset:
        """The samples, with their inputs called as the teacher calls them."""
        return self.teacher.data


def open_pair(request: AdviceRequest) -> Pair:
    """Read both models and the data, cheapest first, and check that they go together.

    Models are opened as ``compress`` opens them: no code from a model file runs without
    ``trust_pickle``. Raises ModelError or DataError in one line; what is wrong with the student
    says so.
    """
    opened = open_model(request.teacher, arch=request.arch, trust_pickle=request.trust_pickle)
    with _about("the student"):
        student = _open_student(request)
    example = example_from_program(opened)
    shape = request.input_shape or (tuple(example[0].shape[1:]) if example else None)
    data = open_data(
        request.data,
        mean=request.mean,
        std=request.std,
        image_size=shape if shape is not None and len(shape) == 3 else None,
        seed=request.seed,
        unlabeled=request.unlabeled,
    )
    teacher = _network(to_program(opened, example or example_batch(data, opened)), data, request)
    with _about("the student"):
        own = example_from_program(student) or example_batch(data, student)
        learner = _network(to_program(student, own), data, request)
    check_outputs("the student", learner.spec, teacher.spec)
    return Pair(teacher, learner, trained=student.kind != "factory")


def _open_student(request: AdviceRequest) -> OpenedModel:
    text = request.student
    if Path(text).exists() or not is_factory(text):
        if text.endswith(".py"):
            raise ModelError(f"{text}: name the function too, as {text}:FACTORY")
        path, arch = Path(text), request.student_arch
        try:
            return open_model(path, arch=arch, trust_pickle=request.trust_pickle)
        except ModelError as error:
            raise ModelError(str(error).replace("--arch", "--student-arch")) from error
    if request.student_arch is not None:
        raise ModelError(
            f"--student-arch is for a file of weights, and {text} is a function that builds the "
            "network itself; leave the option out"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        built = call_factory(text, ModelError, "STUDENT")
    if not isinstance(built.value, nn.Module):
        raise ModelError(f"{text} returned a {type(built.value).__name__}, not a torch.nn.Module")
    module = built.value.cpu().float().eval()
    return OpenedModel("factory", module, None, "", {"arch": built.label, "kind": "factory"})


def _network(loaded: LoadedModel, data: Dataset, request: AdviceRequest) -> Network:
    bound = data.bind([tensor.name for tensor in loaded.spec.inputs])
    check_fit(bound, loaded.spec, request.input_shape)
    check_ids(bound, table_sizes(loaded.program, loaded.spec))
    return Network(to_module(loaded.program), loaded.spec, loaded.example, bound)


@contextlib.contextmanager
def _about(whose: str) -> Iterator[None]:
    """Put whose fault it is in front of an error's message."""
    try:
        yield
    except EdgekdError as error:
        raise type(error)(f"{whose}: {error}") from error


def batches(samples: Samples, most: int, *, least: int = 1) -> Iterator[Indices]:
    """Yield the indices of at most ``most`` samples, spread evenly, in batches of ``BATCH``.

    A last batch of fewer than ``least`` is left out. Raises DataError where there is none.
    """
    total = len(samples)
    chosen = np.arange(total)
    if total > most:
        chosen = np.linspace(0, total - 1, most).round().astype(np.int64)
    if len(chosen) < least:
        raise DataError(f"{total} samples are too few: give {least} or more")
    for start in range(0, len(chosen), BATCH):
        batch = chosen[start : start + BATCH]
        if len(batch) >= least:
            yield batch
