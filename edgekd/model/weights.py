"""Find the weights in a checkpoint and put them into a module, or say what does not fit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from edgekd.errors import ModelError
from edgekd.model.user_code import first_line

Weights = dict[str, Any]
_NESTED = ("state_dict", "model", "model_state_dict", "net")
_SHOWN = 3
_UNINITIALIZED = (UninitializedParameter, UninitializedBuffer)  # lazy layers have no shape yet


def find_weights(content: Any, name: str) -> Weights:
    """Return the state_dict in a loaded checkpoint.

    It may be bare or under ``state_dict``, ``model``, ``model_state_dict``, ``net``, or ``ema`` if
    that is the only one. Raises ModelError when there is none, or more than one.
    """
    if not isinstance(content, Mapping):
        raise ModelError(f"{name} holds a {type(content).__name__}, not a state_dict")
    nested = [key for key in _NESTED if _is_weights(content.get(key))]
    nested = nested or [key for key in ("ema",) if _is_weights(content.get(key))]
    if len(nested) > 1:
        raise ModelError(
            f"{name} holds several sets of weights ({', '.join(nested)}): save only "
            "the one to compress"
        )
    found = content[nested[0]] if nested else content
    if not _is_weights(found):
        keys = ", ".join(str(key) for key in list(content)[:6]) or "nothing"
        raise ModelError(f"{name} holds no state_dict; its entries: {keys}")
    return {str(key): value for key, value in found.items()}


def _is_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(entry, Tensor) for entry in value.values())


def fill(module: nn.Module, weights: Weights, name: str) -> None:
    """Load ``weights`` into ``module`` in place.

    Prefixes that DataParallel (``module.``) and torch.compile (``_orig_mod.``) add are taken off.
    Raises ModelError that lists missing and unexpected keys and tensors of another shape.
    """
    own = module.state_dict()
    weights = _strip_prefixes(weights, own)
    problems = _mismatches(own, weights)
    if problems:
        raise ModelError(f"{name} does not fit the model that --arch builds: {'; '.join(problems)}")
    try:
        module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{name} does not load into the model: {first_line(error)}") from error


def _strip_prefixes(weights: Weights, own: Mapping[str, Any]) -> Weights:
    if weights.keys() == own.keys():
        return weights
    weights = {key.replace("_orig_mod.", ""): value for key, value in weights.items()}
    # Averaged models (torch.optim.swa_utils) carry a counter beside the wrapped module.
    wrapped = [key for key in weights if key != "n_averaged"]
    if wrapped and all(key.startswith("module.") for key in wrapped):
        stripped = {key.removeprefix("module."): weights[key] for key in wrapped}
        return _strip_prefixes(stripped, own)
    return weights


def _mismatches(own: Mapping[str, Any], weights: Weights) -> list[str]:
    # Checkpoints from before torch 0.4.1 lack this counter, which inference never reads.
    missing = [key for key in own.keys() - weights if not key.endswith("num_batches_tracked")]
    unexpected = sorted(weights.keys() - own.keys())
    problems = []
    if missing:
        problems.append(f"missing {_list(_near(key, unexpected) for key in sorted(missing))}")
    if unexpected:
        problems.append(f"unexpected {_list(unexpected)}")
    shapes = [text for key in own if (text := _shape_problem(key, own[key], weights.get(key)))]
    if shapes:
        problems.append(f"another shape: {_list(shapes)}")
    return problems


def _shape_problem(key: str, own: Any, given: Any) -> str | None:
    if not isinstance(own, Tensor) or given is None or isinstance(own, _UNINITIALIZED):
        return None
    if not isinstance(given, Tensor):
        return f"{key} is a {type(given).__name__}, not a tensor"
    if own.shape == given.shape:
        return None
    return f"{key} is {tuple(given.shape)} in the file, {tuple(own.shape)} in the model"


def _near(key: str, others: list[str]) -> str:
    near = difflib.get_close_matches(key, others, n=1)
    return f"{key} (the file has {near[0]})" if near else key


def _list(entries: Iterable[str]) -> str:
    entries = list(entries)
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more
