"""Check a torch.export archive (.pt2) before torch opens it: loading one can run code.

The holes of torch 2.13 that this closes, each with a test: sample inputs, weights and constants may
be full pickles; symbolic expressions are evaluated; names of nodes and arguments are pasted into
Python source that is executed; operators are looked up by dotted path (``_operator`` can call any
method); the trees of inputs and outputs name modules to import; compiled parts are native code.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from typing import Any

import torch

from edgekd.errors import ModelError
from edgekd.model.graph_json import find_unsafe

_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|\.format_version|\.storage_alignment"
    r"|models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|constant_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|extra/[\w./-]+"
)
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLES = "data/sample_inputs/model.pt"
_TRUST = "save it again with edgekd.save_model, or pass --trust-pickle if you trust its source"


def check_archive(data: bytes, name: str) -> None:
    """Raise ModelError unless loading the archive in ``data`` can only build a graph of tensors.

    Reads with torch's own reader, record by record, so that what is checked is what is loaded.
    """
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(data))
        _check_records(reader.get_all_records(), data, name)
        _check_configs(reader, name)
        problem = find_unsafe(json.loads(reader.get_record("models/model.json")))
        samples = reader.get_record(_SAMPLES)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{name} is truncated or damaged: it is not a whole .pt2 file") from error
    if problem:
        raise ModelError(f"{name} is not safe to load ({problem}): {_TRUST}")
    _check_samples(samples, name)


def _check_records(records: list[str], data: bytes, name: str) -> None:
    strange = [record for record in records if not _RECORDS.fullmatch(record)]
    if strange:
        what = "native code" if "aotinductor" in strange[0] else strange[0]
        raise ModelError(f"{name} holds parts that edgekd does not load ({what}): {_TRUST}")
    entries = [entry.lower() for entry in zipfile.ZipFile(io.BytesIO(data)).namelist()]
    if len(set(entries)) != len(entries) or len({entry.split("/")[0] for entry in entries}) != 1:
        raise ModelError(f"{name} holds the same record twice: {_TRUST}")


def _check_configs(reader: Any, name: str) -> None:
    """Refuse weights and constants that are pickles; plain tensors are raw bytes."""
    for path in _CONFIGS:
        for key, entry in json.loads(reader.get_record(path))["config"].items():
            if entry["use_pickle"] or not re.fullmatch(
                r"(weight|tensor|constant)_\d+", entry["path_name"]
            ):
                raise ModelError(f"{name} stores {key[:60]!r} as a pickled object: {_TRUST}")
            device = entry["tensor_meta"]["device"]["type"]
            if device != "cpu":
                raise ModelError(
                    f"{name} was exported on {device!r}: move the model to the CPU and save it "
                    "with edgekd.save_model"
                )


def _check_samples(samples: bytes, name: str) -> None:
    # torch tries weights_only=True first and falls back to the full unpickler when that fails;
    # the same bytes cannot fail there after they loaded here.
    try:
        torch.load(io.BytesIO(samples), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{name} is not safe to load (its sample inputs hold pickled objects): {_TRUST}"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{name} is truncated or damaged: its sample inputs do not load"
        ) from error
