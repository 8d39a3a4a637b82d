"""Read what torch.save wrote without running code from it."""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
import re
import zipfile
from typing import Any

import torch

from edgekd.errors import ModelError
from edgekd.model.user_code import first_line


def read_checkpoint(data: bytes, name: str, *, trust_pickle: bool) -> Any:
    """Return the object in a torch.save file, tensors on the CPU.

    Always with ``weights_only=True``, unless that refuses the file and ``trust_pickle`` allows the
    full unpickler. Raises ModelError when the file is damaged or needs trust that was not given.
    """
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = _refused_global(str(error))
        if refused is None or not _is_whole(data):
            raise ModelError(f"{name} is truncated or damaged: {_damage(error)}") from error
        if not trust_pickle:
            raise ModelError(_refusal(data, name, refused)) from None
    except Exception as error:
        # torch raises many types here (RuntimeError, EOFError, ValueError, KeyError ...).
        raise ModelError(f"{name} is truncated or damaged: {first_line(error)}") from error
    return _read_trusted(data, name)


def _read_trusted(data: bytes, name: str) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    except (AttributeError, ImportError) as error:
        raise ModelError(
            f"{name} needs a class that cannot be imported here ({first_line(error)}): run where "
            "its source can be imported, or save only model.state_dict() and give --arch"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{name} cannot be unpickled: {type(error).__name__}: {first_line(error)}"
        ) from error


def _refused_global(message: str) -> str | None:
    """Return what the restricted unpickler refused, or None when the pickle itself is broken."""
    patterns = (r"GLOBAL ([\w.<>]+)", r"unrecognized function (.+)", r"allowlisted .* but got (.+)")
    for pattern in patterns:
        if found := re.search(pattern, message):
            return found[1].strip()
    return None


def _is_whole(data: bytes) -> bool:
    """Tell whether all opcodes are there; a cut file can end inside a name and look refused.

    The legacy format starts with four pickles: magic number, version, system, content. A zip file
    without its end was found out before.
    """
    if data[:2] == b"PK":
        return True
    stream = io.BytesIO(data)
    try:
        for _ in range(4):
            collections.deque(pickletools.genops(stream), maxlen=0)
    except Exception:
        return False
    return True


def _damage(error: Exception) -> str:
    """Return the unpickler's own complaint, without torch's advice to turn the safety off."""
    found = re.search(r"WeightsUnpickler error: (.+)", str(error))
    return found[1] if found else first_line(error)


def _refusal(data: bytes, name: str, refused: str) -> str:
    trust = "or pass --trust-pickle if you trust where it comes from"
    if _holds_module(data):
        return (
            f"{name} is a whole pickled module ({refused}), and unpickling it would run code from "
            f"the file: save model.state_dict() and give --arch, {trust}"
        )
    return (
        f"{name} holds {refused}, and unpickling that would run code from the file: save it again "
        f"with only the state_dict, {trust}"
    )


def _holds_module(data: bytes) -> bool:
    """Tell whether the pickle names layer classes; a state_dict names only tensors and dicts."""
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pickles = [entry for entry in archive.namelist() if entry.endswith("/data.pkl")]
            data = b"".join(archive.read(entry) for entry in pickles)
    return b"torch.nn.modules." in data
