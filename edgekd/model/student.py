"""A student for distillation: built by the user's function, of the form of the model it follows."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.model.load import OpenedModel, open_model
from edgekd.model.program import LoadedModel, to_program
from edgekd.model.user_code import call_factory
from edgekd.spec import ModelSpec


class Form(Protocol):
    """What a student, or a further teacher, has to be like: inputs and outputs, and a batch."""

    @property
    def spec(self) -> ModelSpec:
        """Return names, dtypes and shapes."""
        ...

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Return one input batch of two."""
        ...


def load_student(factory: str, weights: Path | None, model: Form, *, seed: int) -> LoadedModel:
    """Build the network that ``factory`` returns, and export it for the inputs of ``model``.

    Without ``weights`` it starts from what the factory returns, which draws from random numbers of
    ``seed``. ``sha256`` of what comes back covers the factory's name, its file, the file of weights
    and the program's code, but no weights drawn at random. Dropout and the like are those of
    inference. Raises ModelError, in one line, for code that fails, weights that do not fit, and
    outputs that are not those of ``model``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        opened = _build(factory) if weights is None else _open(weights, factory)
    try:
        loaded = to_program(opened, model.example)
    except ModelError as error:
        raise ModelError(f"--student {factory}: {error}") from None
    check_outputs(f"--student {factory}", loaded.spec, model.spec)
    code = loaded.program.graph_module.code
    sha256 = hashlib.sha256(f"{factory.rpartition(':')[2]}:{opened.sha256}:{code}".encode())
    return LoadedModel(
        loaded.program, loaded.spec, loaded.example, sha256.hexdigest(), opened.source
    )


def _build(factory: str) -> OpenedModel:
    built = call_factory(factory, ModelError, "--student")
    if not isinstance(built.value, nn.Module):
        raise ModelError(
            f"{factory} returned a {type(built.value).__name__}, not a torch.nn.Module"
        )
    source = {"arch": built.label, "kind": "factory"}
    if built.file is not None and built.file.is_file():
        source["arch_sha256"] = hashlib.sha256(built.file.read_bytes()).hexdigest()
    identity = hashlib.sha256(repr(sorted(source.items())).encode()).hexdigest()
    return OpenedModel("factory", built.value.cpu().float().eval(), None, identity, source)


def _open(weights: Path, factory: str) -> OpenedModel:
    try:
        opened = open_model(weights, arch=factory)
    except ModelError as error:
        raise ModelError(str(error).replace("--arch", "--student")) from error
    if opened.kind != "state_dict":
        raise ModelError(
            f"--student-weights {weights.name} is not a checkpoint of weights; save the student's "
            "state_dict"
        )
    return opened


def check_outputs(whose: str, found: ModelSpec, wanted: ModelSpec) -> None:
    """Raise ModelError unless the outputs are as many, of the same shapes and dtypes.

    ``found`` are those of the student, which the message calls ``whose``.
    """
    own = [(tensor.dtype, tensor.shape) for tensor in found.outputs]
    if own == [(tensor.dtype, tensor.shape) for tensor in wanted.outputs]:
        return
    has, needs = ("; ".join(map(str, spec.outputs)) for spec in (found, wanted))
    raise ModelError(
        f"{whose} gives {has}, but the model that teaches gives {needs}: a student needs the same "
        "outputs"
    )
