"""The teacher's answers for all training samples, computed once and kept on disk.

That saves time when the same inputs come back: without augmentation, or with a number of versions
of each sample that take turns, and more than one pass over the data, in this training or in a later
one of the same teacher on the same data. A student learns the same from stored outputs, to the last
bit; only where the last batch of a pass is smaller than the others may a kernel add in another
order there. Features are stored in 16 bits, and ``top_k`` classes are an approximation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.algorithms.augment_replay import augment_plan, replay
from edgekd.cache import StepCache, code_digest, step_key
from edgekd.data.loader import indexed_batches
from edgekd.data.samples import Array, Indices
from edgekd.errors import StageError
from edgekd.graph.program import digest
from edgekd.progress import Progress
from edgekd.stages.distillation_loss import run
from edgekd.stages.packing import Packing
from edgekd.state import CompressionState
from edgekd.training import Inputs, Schedule, autocast
from edgekd.training_settings import Training

Teacher = Callable[..., object]  # from a model's inputs to its outputs
MAX_BYTES = 2**30  # for one teacher; a larger set of outputs is not put on the user's disk


@dataclass(frozen=True)
class Storing:
    """What is to be stored where it is asked for.

    ``views`` versions of each sample take turns, pass by pass, augmented by the sample's place and
    the version's number. ``features`` tensors stand behind the outputs. More than ``max_bytes`` is
    refused.
    """

    views: int
    max_bytes: int
    features: int = 0
    top_k: int | None = None


@dataclass(frozen=True)
class TeacherOutputs:
    """Rows of ``arrays``, memory-mapped, hold the answers: all samples, version after version."""

    arrays: tuple[Array, ...]
    packing: Packing
    samples: int
    status: Literal["computed", "reused"]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(array.nbytes for array in self.arrays)

    def rows(self, indices: Indices, view: int = 0) -> tuple[Tensor, ...]:
        """Return the answers for these training samples in one version."""
        places = indices + view * self.samples
        return self.packing.unpack([np.array(array[places]) for array in self.arrays])


def replayed(images: Tensor, chosen: Indices, view: int, options: Training) -> Tensor:
    """Return a version of training samples, ``(N, C, H, W)``; what is no image stays as it is."""
    if images.ndim != 4:
        return images
    height, width = images.shape[2:]
    return replay(images, augment_plan(chosen, view, height, width, options.augment))


def teacher_outputs(
    state: CompressionState,
    teacher: Teacher,
    options: Training,
    schedule: Schedule,
    progress: Progress,
    *,
    device: torch.device,
    title: str,
    features: bool,
    identity: str | None = None,
) -> TeacherOutputs | None:
    """Return the stored answers, computed now if they are not there; None where it does not pay.

    It pays if samples are not augmented, no ``features`` are asked for, all outputs together take
    at most ``MAX_BYTES``, and an earlier run has stored them or this one takes more than one pass.
    A teacher that is no program needs an ``identity``: a hash of what it computes.
    """
    if state.cache is None or features or _augmented(state, options):
        return None
    store = _Store(state, state.cache, teacher, options, device, title)
    if not store.has_rows or store.size > MAX_BYTES:
        return None
    if identity is None:
        assert isinstance(teacher, fx.GraphModule)
        identity = digest(teacher)
    found = store.find(identity)
    if found is None and schedule.steps > schedule.steps_per_epoch:
        found = store.fill(identity, progress)
    return found


def stored_views(
    state: CompressionState,
    teacher: Teacher,
    options: Training,
    storing: Storing,
    progress: Progress,
    *,
    device: torch.device,
    title: str,
    identity: str,
) -> TeacherOutputs | None:
    """Return the stored answers for every version of each sample, computed now if need be.

    None only where there is no cache or no place on the disk, which is said. ``identity`` is a hash
    of what the teacher computes. Raises StageError for answers that cannot be stored.
    """
    if state.cache is None:
        progress.note(f"{title}: without a cache, the teacher is asked anew for each batch")
        return None
    store = _Store(state, state.cache, teacher, options, device, title, storing)
    if not store.has_rows:
        raise StageError(f"{title}: the teacher's answers have no row a sample to be stored")
    what = f"{store.views} versions of {store.samples} samples"
    if store.size > storing.max_bytes:
        raise StageError(
            f"{title}: the teacher's answers for {what} take {store.size / 2**30:.1f} GiB, above "
            "'stored_gib'; raise it, store fewer views, or set 'stored_views' to null"
        )
    found = store.find(identity)
    progress.note(
        f"{title}: the teacher's answers for {what}, {store.size / 2**20:.1f} MiB, "
        f"{'are stored now' if found is None else 'were stored before'}"
    )
    return found or store.fill(identity, progress)


def _augmented(state: CompressionState, options: Training) -> bool:
    return options.augment != "none" and state.example[0].ndim == 4


class _Store:
    """What of a teacher goes to disk, and where."""

    def __init__(
        self,
        state: CompressionState,
        cache: StepCache,
        teacher: Teacher,
        options: Training,
        device: torch.device,
        title: str,
        storing: Storing | None = None,
    ):
        self._state, self._cache, self._teacher, self._options = state, cache, teacher, options
        self._device, self._title = device, title
        self._versioned = storing is not None and _augmented(state, options)
        self.views = storing.views if storing is not None and self._versioned else 1
        self.samples = len(state.data.train)
        answers = self._answer(state.example)
        self.packing = Packing(len(answers) - (0 if storing is None else storing.features))
        if storing is not None and storing.top_k is not None:
            classes = answers[0].shape[-1]
            self.packing = replace(self.packing, top_k=storing.top_k, classes=classes)
        rows = len(state.example[0])
        self.has_rows = all(answer.shape[:1] == (rows,) for answer in answers)
        self._examples = self.packing.pack(answers)

    @property
    def size(self) -> int:
        """Bytes on disk; needs ``has_rows``."""
        row: int = sum(example[0].nbytes for example in self._examples)
        return row * self.samples * self.views

    def find(self, identity: str) -> TeacherOutputs | None:
        """Return what an earlier run has stored."""
        folder = self._cache.folder(self._key(identity))
        return None if folder is None else self._open(folder, "reused")

    def fill(self, identity: str, progress: Progress) -> TeacherOutputs | None:
        """Ask the teacher and return what is stored; None where the disk is full, which is said."""
        rows, record = self.samples * self.views, {"samples": self.samples, "views": self.views}
        try:
            folder = self._cache.build(
                self._key(identity),
                lambda folder: _write(folder, self._examples, rows, self._answers(progress)),
                record,
            )
        except OSError as error:  # a full disk: training can do without
            progress.note(
                f"{self._title}: the teacher's outputs could not be stored ({error.strerror})"
            )
            return None
        return self._open(folder, "computed")

    def _open(self, folder: Path, status: Literal["computed", "reused"]) -> TeacherOutputs:
        arrays = _open(folder, len(self._examples))
        return TeacherOutputs(arrays, self.packing, self.samples, status)

    def _answers(self, progress: Progress) -> Iterator[list[Array]]:
        state, options = self._state, self._options
        with progress.task(f"{self._title}: teacher", self.samples * self.views) as advance:
            for view in range(self.views):
                for chosen, inputs, _ in indexed_batches(
                    state.data, state.data.train, state.spec, options.batch_size
                ):
                    seen = inputs
                    if self._versioned:
                        seen = (replayed(inputs[0], chosen, view, options), *inputs[1:])
                    yield self.packing.pack(self._answer(seen))
                    advance(len(inputs[0]))

    @torch.no_grad()
    def _answer(self, inputs: Inputs) -> list[Tensor]:
        with autocast(self._device, self._options.mixed_precision):
            outputs = run(self._teacher, tuple(tensor.to(self._device) for tensor in inputs))
        return [output.cpu() for output in outputs]

    def _key(self, identity: str) -> str:
        state, options = self._state, self._options
        preprocessing = state.data.preprocessing
        return step_key(
            {
                "teacher": identity,
                "data": state.data.fingerprints["train"],
                "preprocessing": preprocessing and preprocessing.to_dict(),
                "inputs": [f"{tuple(tensor.shape[1:])} {tensor.dtype}" for tensor in state.example],
                "names": state.data.names,
                "batch_size": options.batch_size,  # it decides the order of sums, so the last bits
                "device": self._device.type,
                "mixed_precision": options.mixed_precision,
                "packing": asdict(self.packing),
                "views": [self.views, options.augment] if self._versioned else None,
                "torch": torch.__version__,
                "code": code_digest(),
            }
        )


def _write(folder: Path, examples: list[Array], count: int, answers: Iterable[list[Array]]) -> None:
    """Write one .npy file an output, batch by batch.

    They are not mapped while they are written: a full disk would end the process without an error.
    """
    with contextlib.ExitStack() as stack:
        files: list[IO[bytes]] = []
        for index, example in enumerate(examples):
            files.append(stack.enter_context(_path(folder, index).open("wb")))
            header = np.lib.format.header_data_from_array_1_0(example[:0])
            header["shape"] = (count, *example.shape[1:])
            np.lib.format.write_array_header_1_0(files[-1], header)
        for outputs in answers:
            for file, output in zip(files, outputs, strict=True):
                file.write(output.tobytes())


def _open(folder: Path, count: int) -> tuple[Array, ...]:
    return tuple(np.load(_path(folder, index), mmap_mode="r") for index in range(count))


def _path(folder: Path, index: int) -> Path:
    return folder / f"output_{index}.npy"
