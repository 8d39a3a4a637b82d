"""Run a model on ONNX Runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import onnxruntime as ort

from edgekd.errors import BundleError
from edgekd.runtime.cuda import why_no_gpu
from edgekd.runtime.options import session_options
from edgekd.runtime.tensors import describe, one_line

_CUDA = "CUDAExecutionProvider"
_NOTHING = 4  # ONNX Runtime's severity: above what a failed run reports


class OnnxRuntimeSession:
    """An ONNX Runtime session; calls from any number of threads at once are fine.

    ``inputs`` and ``outputs`` are the model's own TensorSpecs.
    """

    def __init__(self, session: Any) -> None:
        self.inputs = tuple(map(describe, session.get_inputs()))
        self.outputs = tuple(map(describe, session.get_outputs()))
        self._session = session
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = _NOTHING  # a failed run raises, it need not log

    def run(self, names: Sequence[str], feed: Mapping[str, Any]) -> Sequence[Any]:
        """Return the outputs ``names`` for input name -> array; raises what ONNX Runtime raises."""
        outputs: Sequence[Any] = self._session.run(names, feed, self._run_options)
        return outputs


def open_onnxruntime(
    content: bytes,
    target_runtime: str,
    threads: int | None = None,
    providers: Sequence[Any] | None = None,
    *,
    shared_memory: bool = False,
) -> OnnxRuntimeSession:
    """Open an ONNX model that was written for ``target_runtime``.

    ``threads`` and ``providers`` are those of ``load``. With ``shared_memory``, the session takes
    its working memory from one arena of the process, which stays when the session goes.

    Raises BundleError when a provider is not there or ONNX Runtime cannot open the model.
    """
    options = session_options(target_runtime)
    if threads is not None:
        options.intra_op_num_threads = threads
    if shared_memory:
        _make_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    available = _available(providers)
    try:
        session = ort.InferenceSession(content, options, providers=available)
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise BundleError(f"ONNX Runtime cannot open it: {one_line(error)}") from error
    _check_used(available, session.get_providers())
    return OnnxRuntimeSession(session)


def has_cuda() -> bool:
    """Tell whether ONNX Runtime was built for CUDA and a driver works."""
    return _CUDA in ort.get_available_providers() and why_no_gpu() is None


def cuda_providers() -> list[str]:
    """Return the providers for NVIDIA GPUs; what they do not compute is left to the CPU.

    Raises BundleError where ONNX Runtime has none, or no driver works.
    """
    if _CUDA not in ort.get_available_providers():
        raise BundleError(
            f"this onnxruntime has no {_CUDA}: pip uninstall onnxruntime, then pip install "
            "onnxruntime-gpu (on a Jetson, NVIDIA's own wheel of it)"
        )
    reason = why_no_gpu()
    if reason is not None:
        raise BundleError(f"there is no usable NVIDIA GPU ({reason})")
    return [_CUDA, "CPUExecutionProvider"]


def _check_used(asked: Sequence[Any], used: Sequence[str]) -> None:
    """Raise BundleError where ONNX Runtime dropped a provider, which it does with a warning only.

    That happens where the provider's own libraries cannot be loaded.
    """
    names = [entry if isinstance(entry, str) else entry[0] for entry in asked]
    dropped = [name for name in names if name not in used]
    if dropped:
        advice = ": it needs CUDA's and cuDNN's libraries" if _CUDA in dropped else ""
        raise BundleError(
            f"ONNX Runtime cannot use {', '.join(dropped)} here and fell back to "
            f"{', '.join(used)}{advice}"
        )


@lru_cache
def _make_arena() -> None:
    """Give ONNX Runtime an arena for all sessions that ask for it.

    Models that run one after the other then use the same memory, and find it in the cache.
    """
    kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT)
    with contextlib.suppress(Exception):  # older versions take no second one beside the caller's
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg(0, -1, -1, -1))


def _available(providers: Sequence[Any] | None) -> list[Any]:
    """Refuse what is not there: ONNX Runtime would warn and quietly run on the CPU instead."""
    if providers is None:
        return ["CPUExecutionProvider"]
    have = ort.get_available_providers()
    names = [entry if isinstance(entry, str) else entry[0] for entry in providers]
    missing = [name for name in names if name not in have]
    if missing:
        raise BundleError(f"this onnxruntime has no {', '.join(missing)}; it has {', '.join(have)}")
    return list(providers)
