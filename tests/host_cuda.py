"""A stand-in for CUDA's driver whose GPU is the CPU's memory: real C with NVIDIA's prototypes.

It shows that edgekd's calls arrive as they are meant: widths, order, pairs of taking and giving
back. It says nothing about a GPU.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = (Path(__file__).parent / "host_cuda.c").read_text("utf-8")


def compile_driver(folder: Path, source: str = SOURCE) -> str:
    """Return the path of the compiled library; skips where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = folder / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=source, text=True, check=True)
    return str(library)


def count(library: str, what: str) -> int:
    """Return a counter of the library, such as ``allocations`` that are not given back."""
    return ctypes.c_long.in_dll(ctypes.CDLL(library), what).value
