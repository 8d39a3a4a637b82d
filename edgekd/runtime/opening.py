"""Open ONNX bytes on a runtime, and see that they are what the manifest promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edgekd.errors import BundleError
from edgekd.runtime.manifest import Deployment
from edgekd.runtime.openvino import open_openvino
from edgekd.runtime.tensors import one_line
from edgekd.spec import ModelSpec, TensorSpec

RUNTIMES = ("onnxruntime", "onnxruntime-cuda", "openvino", "tensorrt")


class Session(Protocol):
    """What a runtime gives: the model's own signature, and a call that is safe in threads.

    Its memory goes with the last reference to it; that of the GPU as ``TensorRTSession`` says.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, names: Sequence[str], feed: Mapping[str, Any]) -> Sequence[Any]:
        """Return the outputs ``names`` for input name -> array."""


def import_onnxruntime() -> Any:
    """Return ``edgekd.runtime.onnxruntime``, late: a board with an engine needs no ONNX Runtime.

    Raises BundleError where ONNX Runtime is not installed.
    """
    try:
        from edgekd.runtime import onnxruntime
    except ImportError as error:
        raise BundleError(
            f"ONNX Runtime cannot be imported ({one_line(error)}): pip install onnxruntime"
        ) from error
    return onnxruntime


def open_session(
    content: bytes,
    target_runtime: str,
    choice: Deployment,
    threads: int | None,
    providers: Sequence[Any] | None,
    *,
    one_of_several: bool = False,
) -> Session:
    """Open a model that was written for ``target_runtime`` as ``choice`` says.

    ``threads`` and ``providers`` are those of ``load``. ``one_of_several`` is for models that run
    one after the other: they may share their working memory. Raises BundleError where that cannot
    be.
    """
    if threads is not None and threads < 1:
        raise BundleError(f"threads must be 1 or more, not {threads}")
    if choice.runtime in ("onnxruntime", "onnxruntime-cuda"):
        if choice.precision not in (None, "f32"):
            raise BundleError(
                f"ONNX Runtime computes a model as it is written, not in {choice.precision}; "
                'for bf16 choose runtime="openvino"'
            )
        ours = import_onnxruntime()
        if choice.runtime == "onnxruntime-cuda":
            if providers is not None:
                raise BundleError('providers are for runtime="onnxruntime": say one of the two')
            providers = ours.cuda_providers()
        session: Session = ours.open_onnxruntime(
            content, target_runtime, threads, providers, shared_memory=one_of_several
        )
        return session
    if choice.runtime != "openvino":
        raise BundleError(f"there is no runtime {choice.runtime!r}, only {', '.join(RUNTIMES)}")
    if providers is not None:
        raise BundleError("providers are ONNX Runtime's; leave them out for OpenVINO")
    if target_runtime != "onnxruntime":
        raise BundleError(
            f"its graph is written for {target_runtime}; OpenVINO would not compute it as that "
            'does: open it with runtime="onnxruntime", or compress for --target cpu'
        )
    return open_openvino(content, choice.precision, threads)


def check_signature(session: Session, spec: ModelSpec) -> None:
    """Raise BundleError unless the model takes and gives what the manifest promises."""
    inputs = {tensor.name: tensor for tensor in session.inputs}
    outputs = {tensor.name: tensor for tensor in session.outputs}
    extra = set(inputs) - {tensor.name for tensor in spec.inputs}
    if extra:
        raise BundleError(f"the model also needs {', '.join(sorted(extra))}, not in the manifest")
    for wanted in spec.inputs:
        found = inputs.get(wanted.name)
        if found is None or not _accepts(found, wanted):
            raise BundleError(f"the manifest promises {wanted}, the model takes {found or 'none'}")
    for wanted in spec.outputs:
        found = outputs.get(wanted.name)
        if found is None or not _may_give(found, wanted):
            raise BundleError(f"the manifest promises {wanted}, the model gives {found or 'none'}")


def _accepts(found: TensorSpec, wanted: TensorSpec) -> bool:
    """Return whether an input takes everything that the manifest allows."""
    return (
        found.dtype == wanted.dtype
        and len(found.shape) == len(wanted.shape)
        and all(a is None or a == b for a, b in zip(found.shape, wanted.shape))  # noqa: B905
    )


def _may_give(found: TensorSpec, wanted: TensorSpec) -> bool:
    """Return whether an output can be what the manifest says; a model may leave shapes open."""
    if found.dtype != wanted.dtype or not found.shape:
        return found.dtype == wanted.dtype
    return len(found.shape) == len(wanted.shape) and all(
        a is None or b is None or a == b
        for a, b in zip(found.shape, wanted.shape)  # noqa: B905 - strict= needs Python 3.10
    )
