"""What is copied to a board: the processes that measure and build, and what they import."""

from __future__ import annotations

import ast
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import edgekd
import edgekd_hardware

ENTRIES = (
    "edgekd.bench.worker",
    "edgekd.bench.memory_worker",
    "edgekd.engine.worker",
    "edgekd_hardware.board_state",
)
"""The modules that a board runs."""

# Packages whose __init__ is for the host: it names what a board has no use for, or may not have.
_FRONTS = ("edgekd", "edgekd.bench", "edgekd.runtime")
_PACKAGES = {
    "edgekd": Path(edgekd.__file__).parent,
    "edgekd_hardware": Path(edgekd_hardware.__file__).parent,
}


def sources() -> dict[str, Path]:
    """Return name -> file of every module that ``ENTRIES`` import, directly or not.

    Read from the code, late imports included, so a module that the measuring process comes to need
    goes along by itself. ``tests/edgekd/runtime/test_runtime_is_light.py`` holds all of them to
    Python 3.8.
    """
    found: dict[str, Path] = {}
    waiting = list(ENTRIES)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in found or name in _FRONTS or path is None:
            continue
        found[name] = path
        waiting += _imported(path)
        waiting += [".".join(name.split(".")[:-1])]  # importing a module runs its package
    return found


def archive() -> bytes:
    """Return a zip file that Python imports from: the same bytes for the same sources."""
    content: Mapping[str, bytes] = {
        **{f"{name.replace('.', '/')}/__init__.py": b"" for name in _FRONTS},
        **{_inside(name, path): path.read_bytes() for name, path in sources().items()},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in sorted(content.items()):
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _inside(name: str, path: Path) -> str:
    return name.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")


def _file(name: str) -> Path | None:
    """Return the file of a module of ours, None for other names."""
    package, *parts = name.split(".")
    if package not in _PACKAGES:
        return None
    path = _PACKAGES[package].joinpath(*parts)
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _imported(path: Path) -> Iterator[str]:
    """Yield what a file imports; a name of a module may be a module itself or something in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
