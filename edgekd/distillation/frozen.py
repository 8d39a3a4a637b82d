"""An ONNX model in the original's place: it cannot be changed, but a student can learn from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgekd.data.samples import Array
from edgekd.data.source import Dataset
from edgekd.distillation.onnx_teacher import feed_of, open_session
from edgekd.errors import ModelError
from edgekd.model.program import LoadedModel
from edgekd.model.recognise import looks_like_onnx
from edgekd.model.user_code import first_line
from edgekd.spec import ModelSpec, TensorSpec


@dataclass(frozen=True)
class Frozen:
    """An ONNX file that was read; ``inputs`` are the names of its inputs."""

    path: Path
    content: bytes
    inputs: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Return the hash of the file."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class FrozenForm:
    """What a student has to be like: inputs and outputs, and a batch of two."""

    spec: ModelSpec
    example: tuple[Tensor, ...]


def starts_as_onnx(path: Path) -> bool:
    """Tell whether a file is there and begins as an ONNX model does."""
    try:
        with path.open("rb") as file:
            return looks_like_onnx(file.read(16))
    except OSError:
        return False


def open_frozen(path: Path) -> Frozen:
    """Open an ONNX model of one file. Raises ModelError for one that cannot be used."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    session = open_session(content, path.name)
    return Frozen(path, content, tuple(entry.name for entry in session.get_inputs()))


def form_of(frozen: Frozen, data: Dataset) -> FrozenForm:
    """Return what the model takes and gives, from its answers to two samples of ``data``.

    ``data`` calls its inputs as the model does. Raises ModelError for a model that does not take
    a batch of any size, or has an output without a batch axis.
    """
    arrays = data.example()
    example = tuple(torch.from_numpy(arrays[name]) for name in frozen.inputs)
    session = open_session(frozen.content, frozen.path.name)
    names = [entry.name for entry in session.get_outputs()]
    found = []
    for rows in (torch.tensor([0, 1]), torch.tensor([0, 1, 0])):
        batch = tuple(x[rows] for x in example)
        try:
            found.append(session.run(names, feed_of(frozen.inputs, batch)))
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ModelError(
                f"{frozen.path.name} does not run on {len(rows)} of the samples "
                f"({first_line(error)}): export it with a free batch axis, for data like these"
            ) from error
    for name, two, three in zip(names, *found, strict=True):
        if two.shape[:1] != (2,) or three.shape != (3, *two.shape[1:]):
            raise ModelError(
                f"output {name} of {frozen.path.name} is {two.shape} for two samples and "
                f"{three.shape} for three: export it with a free batch axis"
            )
    inputs = zip(frozen.inputs, (x.numpy() for x in example), strict=True)
    outputs = zip(names, found[0], strict=True)
    return FrozenForm(ModelSpec(_specs(inputs), _specs(outputs)), example)


def in_place_of(frozen: Frozen, form: FrozenForm, student: LoadedModel) -> LoadedModel:
    """Return the model as the rest of edgekd takes it: the student's program under its name."""
    source = {"file": frozen.path.name, "kind": "onnx", "sha256": frozen.sha256}
    return LoadedModel(student.program, form.spec, form.example, frozen.sha256, source)


def _specs(arrays: Iterable[tuple[str, Array]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(n, str(x.dtype), (None, *x.shape[1:])) for n, x in arrays)
