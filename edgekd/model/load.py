"""Open a model file: recognise it, read it without running code from it, build the module."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd.errors import ModelError
from edgekd.model.archive import check_archive
from edgekd.model.checkpoint import read_checkpoint
from edgekd.model.recognise import recognise
from edgekd.model.user_code import UserResult, call_factory, first_line
from edgekd.model.weights import fill, find_weights


@dataclass(frozen=True)
class OpenedModel:
    """A model file that was read. Exactly one of ``module`` and ``program`` is set.

    ``kind`` is ``state_dict``, ``program`` or ``pickled_module``. ``module`` is in eval mode on the
    CPU with its weights loaded. ``sha256`` covers the bytes of the model file and of the source
    file that ``arch`` names. ``source`` is plain data for a manifest.
    """

    kind: str
    module: nn.Module | None
    program: torch.export.ExportedProgram | None
    sha256: str
    source: dict[str, str]


def open_model(path: Path, *, arch: str | None = None, trust_pickle: bool = False) -> OpenedModel:
    """Read a model file, which may come from a stranger, and build what it holds.

    ``arch`` (``FILE.py:factory`` or ``package.module:factory``) builds the network for a
    state_dict. Code from the file itself runs only with ``trust_pickle``. Raises ModelError, in
    one line, for every file that cannot be used.
    """
    path = Path(path)
    data = _read(path)
    kind = recognise(data, path.name)
    if kind == "program":
        program = _load_program(data, path.name, trust_pickle=trust_pickle)
        return OpenedModel("program", None, program, *_identity(path, data, "program", None))
    if kind == "safetensors":
        content: Any = _load_safetensors(data, path.name)
    else:
        content = read_checkpoint(data, path.name, trust_pickle=trust_pickle)
    if module := _whole_module(content):
        identity = _identity(path, data, "pickled_module", None)
        return OpenedModel("pickled_module", _ready(module), None, *identity)
    return _from_weights(path, data, content, arch)


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not a model file")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def _from_weights(path: Path, data: bytes, content: Any, arch: str | None) -> OpenedModel:
    weights = find_weights(content, path.name)
    if arch is None:
        raise ModelError(
            f"{path.name} holds only weights (a state_dict): say which network they belong to with "
            "--arch FILE.py:factory"
        )
    built = call_factory(arch, ModelError, "--arch")
    if not isinstance(built.value, nn.Module):
        raise ModelError(f"{arch} returned a {type(built.value).__name__}, not a torch.nn.Module")
    fill(built.value, weights, path.name)
    identity = _identity(path, data, "state_dict", built)
    return OpenedModel("state_dict", _ready(built.value), None, *identity)


def _whole_module(content: Any) -> nn.Module | None:
    """Return a pickled module, bare or under the names that training scripts give it."""
    if isinstance(content, nn.Module):
        return content
    if isinstance(content, Mapping):
        for key in ("model", "net", "ema"):
            if isinstance(content.get(key), nn.Module):
                return content[key]  # type: ignore[no-any-return]
    return None


def _ready(module: nn.Module) -> nn.Module:
    """Return the module in eval mode on the CPU; one saved in half precision becomes float32."""
    module = module.cpu().eval()
    halves = (torch.float16, torch.bfloat16)
    return module.float() if any(p.dtype in halves for p in module.parameters()) else module


def _load_safetensors(data: bytes, name: str) -> Any:
    from safetensors.torch import load

    try:
        return load(data)
    except Exception as error:
        raise ModelError(f"{name} is truncated or damaged: {first_line(error)}") from error


def _load_program(data: bytes, name: str, *, trust_pickle: bool) -> torch.export.ExportedProgram:
    """Load a .pt2 from the very bytes that were checked.

    Not by ``torch.export.load``: on some errors that goes on to read the same file as an older
    format, which the check does not cover.
    """
    from torch.export.pt2_archive._package import load_pt2

    if not trust_pickle:
        check_archive(data, name)
    try:
        program = load_pt2(io.BytesIO(data)).exported_programs["model"]
    except Exception as error:
        raise ModelError(
            f"{name} cannot be loaded by torch {torch.__version__} ({first_line(error)}): save it "
            "again with edgekd.save_model"
        ) from error
    # These strings are Python that torch would execute to check input shapes; edgekd checks them.
    program._guards_code = []
    return program


def _identity(
    path: Path, data: bytes, kind: str, built: UserResult | None
) -> tuple[str, dict[str, str]]:
    """Return the digest over all files that make the model, and the manifest's entries."""
    digest = hashlib.sha256(data).hexdigest()
    source = {"file": path.name, "kind": kind, "sha256": digest}
    if built is None:
        return digest, source
    source["arch"] = built.label
    if built.file is None or not built.file.is_file():
        return digest, source
    source["arch_sha256"] = hashlib.sha256(built.file.read_bytes()).hexdigest()
    return hashlib.sha256((digest + source["arch_sha256"]).encode()).hexdigest(), source
