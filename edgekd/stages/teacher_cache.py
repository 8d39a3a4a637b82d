"""The teacher's outputs for all training samples, computed once and kept on disk.

That saves time when the same inputs come back: no augmentation, and more than one pass over the
data, in this training or in a later one of the same teacher on the same data. A student learns the
same from stored outputs, to the last bit; only where the last batch of a pass is smaller than the
others may a kernel add in another order there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.cache import code_digest, step_key
from edgekd.data.loader import batches
from edgekd.data.samples import Array, Indices
from edgekd.graph.program import digest
from edgekd.progress import Progress
from edgekd.stages.distillation_loss import run
from edgekd.state import CompressionState
from edgekd.training import Inputs, Schedule, autocast
from edgekd.training_settings import Training

Teacher = Callable[..., object]  # from a model's inputs to its outputs
MAX_BYTES = 2**30  # for one teacher; a larger set of outputs is not put on the user's disk


@dataclass(frozen=True)
class TeacherOutputs:
    """``arrays[i]`` holds output i of every training sample, memory-mapped."""

    arrays: tuple[Array, ...]
    status: Literal["computed", "reused"]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(array.nbytes for array in self.arrays)

    def rows(self, indices: Indices) -> tuple[Tensor, ...]:
        """Return the outputs for these training samples."""
        return tuple(torch.from_numpy(np.array(array[indices])) for array in self.arrays)


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
    """Return the stored outputs, computed now if they are not there; None where it does not pay.

    It pays if samples are not augmented, no ``features`` are asked for, all outputs together take
    at most ``MAX_BYTES``, and an earlier run has stored them or this one takes more than one pass.
    A teacher that is no program needs an ``identity``: a hash of what it computes.
    """
    augmented = options.augment != "none" and state.example[0].ndim == 4
    if state.cache is None or augmented or features:
        return None
    if identity is None:
        assert isinstance(teacher, fx.GraphModule)
        identity = digest(teacher)
    precision = autocast(device, options.mixed_precision)
    examples = _answer(teacher, state.example, device, precision)
    count = len(state.data.train)
    if not _can_be_stored(examples, len(state.example[0]), count):
        return None
    key = _key(state, identity, options, device)
    if (folder := state.cache.folder(key)) is not None:
        return TeacherOutputs(_open(folder, len(examples)), "reused")
    if schedule.steps <= schedule.steps_per_epoch:
        return None

    def answers() -> Iterator[list[Array]]:
        passes = batches(state.data, state.data.train, state.spec, options.batch_size)
        with progress.task(f"{title}: teacher", count) as advance:
            for inputs, _ in passes:
                yield _answer(teacher, inputs, device, precision)
                advance(len(inputs[0]))

    try:
        folder = state.cache.build(
            key, lambda folder: _write(folder, examples, count, answers()), {"samples": count}
        )
    except OSError as error:  # a full disk: training can do without
        progress.note(f"{title}: the teacher's outputs could not be stored ({error.strerror})")
        return None
    return TeacherOutputs(_open(folder, len(examples)), "computed")


def _can_be_stored(examples: list[Array], batch: int, count: int) -> bool:
    """Tell whether every output has a row a sample, and all rows together fit."""
    if not all(example.shape[:1] == (batch,) for example in examples):
        return False
    size: int = sum(example[0].nbytes for example in examples)
    return size * count <= MAX_BYTES


@torch.no_grad()
def _answer(
    teacher: Teacher, inputs: Inputs, device: torch.device, precision: torch.autocast
) -> list[Array]:
    with precision:
        outputs = run(teacher, tuple(tensor.to(device) for tensor in inputs))
    return [output.cpu().numpy() for output in outputs]


def _key(state: CompressionState, identity: str, options: Training, device: torch.device) -> str:
    preprocessing = state.data.preprocessing
    return step_key(
        {
            "teacher": identity,
            "data": state.data.fingerprints["train"],
            "preprocessing": preprocessing and preprocessing.to_dict(),
            "inputs": [f"{tuple(tensor.shape[1:])} {tensor.dtype}" for tensor in state.example],
            "names": state.data.names,
            "batch_size": options.batch_size,  # it decides the order of sums, so the last bits
            "device": device.type,
            "mixed_precision": options.mixed_precision,
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
