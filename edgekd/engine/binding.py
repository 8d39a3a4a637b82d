"""Find TensorRT, or say in one line what is missing.

The driver is started first: without one, merely making TensorRT's builder ends the process in some
versions. TensorRT-RTX is the exception: its parser and builder work without a GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from edgekd.errors import BundleError
from edgekd.runtime.cuda import GpuMachine, shared_cuda, why_no_gpu
from edgekd.runtime.tensors import one_line

GENERAL, RTX = "tensorrt", "tensorrt_rtx"
RTX_READS_AS = "11"  # TensorRT-RTX 1 reads the graphs that TensorRT 11 reads
_INSTALL = {
    GENERAL: "on a Jetson it comes with JetPack (sudo apt install python3-libnvinfer), elsewhere "
    "pip install tensorrt",
    RTX: "pip install tensorrt-rtx",
}
_KEPT = 50
_NO_DRIVER = "CUDA driver version is insufficient"  # RTX says so at every turn without a GPU


@dataclass(frozen=True)
class Binding:
    """TensorRT's Python package and what there is around it; ``machine`` None: no GPU."""

    name: str
    trt: Any
    version: str
    machine: GpuMachine | None
    log: Log

    @property
    def title(self) -> str:
        """Name and version for people."""
        return f"{'TensorRT-RTX' if self.name == RTX else 'TensorRT'} {self.version}"

    @property
    def reads_as(self) -> str:
        """The version of TensorRT whose graphs it reads, for ``plan_for``."""
        return RTX_READS_AS if self.name == RTX else self.version

    @property
    def major(self) -> int:
        """The major version of TensorRT that this behaves like."""
        return int(re.split(r"\D", self.reads_as, maxsplit=1)[0])


class Log:
    """What TensorRT says, kept instead of printed: (severity, text), the last ones.

    ``own`` is the object that TensorRT is given.
    """

    def __init__(self, trt: Any) -> None:
        self.lines: list[tuple[str, str]] = []
        kept, severity = self.lines, trt.ILogger.Severity
        names = {severity.INTERNAL_ERROR: "error", severity.ERROR: "error"}
        names[severity.WARNING] = "warning"

        class Own(trt.ILogger):  # type: ignore[misc]  # found late
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, text: str) -> None:
                if level in names:
                    kept.append((names[level], text))
                    del kept[:-_KEPT]

        self.own = Own()

    def errors(self) -> str:
        """Return the last errors on one line; empty where there are none."""
        texts = [text for severity, text in self.lines if severity == "error"]
        told = [text for text in texts if _NO_DRIVER not in text] or texts
        return one_line(Exception("; ".join(told[-3:]))) if told else ""

    def warnings(self) -> list[str]:
        """Return the warnings, each once and on one line."""
        texts = [one_line(Exception(text)) for severity, text in self.lines if severity != "error"]
        return list(dict.fromkeys(texts))


def open_binding(name: str | None = None) -> Binding:
    """Return TensorRT, ready to build; ``name`` None: tensorrt where it can be used, else RTX.

    Raises BundleError that says what is missing and what to do.
    """
    reason = why_no_gpu()
    chosen = name or (GENERAL if reason is None and _is_installed(GENERAL) else RTX)
    if chosen not in _INSTALL:
        raise BundleError(f"there is no TensorRT called {chosen!r}, only {' and '.join(_INSTALL)}")
    if reason is not None and chosen == GENERAL:
        raise BundleError(f"TensorRT cannot be used here: there is {_no_gpu(reason)}; {_ELSEWHERE}")
    if not _is_installed(chosen):
        if name is None:
            chosen = GENERAL
        missing = "TensorRT is" if chosen == GENERAL else "TensorRT-RTX is"
        gpu = "" if reason is None else f" and there is {_no_gpu(reason)}"
        raise BundleError(f"{missing} not installed here{gpu}: {_INSTALL[chosen]}; {_ELSEWHERE}")
    machine = None
    if reason is None:
        cuda = shared_cuda()
        cuda.make_current()
        machine = cuda.machine()
    try:
        trt = import_module(chosen)
        log = Log(trt)
        if hasattr(trt, "init_libnvinfer_plugins"):
            trt.init_libnvinfer_plugins(log.own, "")
    except (ImportError, OSError, RuntimeError, TypeError) as error:
        raise BundleError(f"{chosen} cannot be imported here: {one_line(error)}") from error
    return Binding(chosen, trt, str(trt.__version__), machine, log)


_ELSEWHERE = (
    "or build on the device: `sh build.sh` in the bundle's folder there, or from here "
    "`edgekd build BUNDLE --device ssh://user@host`"
)


def _no_gpu(reason: str) -> str:
    return f"no usable NVIDIA GPU ({reason})"


def _is_installed(name: str) -> bool:
    return find_spec(name) is not None
