"""Run a function that the user names: ``FILE.py:factory`` or ``package.module:factory``.

This executes the user's own source, which they named on purpose; nothing here reads a model file.
No torch is imported, so that data factories can use it too.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekd.errors import EdgekdError


@dataclass(frozen=True)
class UserResult:
    """What a user's factory returned, and which file it came from (None for a built-in)."""

    value: Any
    file: Path | None
    label: str  # "file.py:factory", without the folder, for manifests


def is_factory(text: str) -> bool:
    """Tell whether ``text`` reads as ``FILE.py:factory`` or ``package.module:factory``."""
    place, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier():
        return False
    return place.endswith(".py") or all(part.isidentifier() for part in place.split("."))


def first_line(error: BaseException) -> str:
    """Return the first line that says something of an exception's message, or its type's name."""
    for line in str(error).splitlines():
        if line.strip():
            return line.strip()[:300]
    return type(error).__name__


def call_factory(text: str, error: type[EdgekdError], option: str) -> UserResult:
    """Import the named place and call the factory without arguments.

    ``option`` is how messages name the setting, such as ``--arch``. Raises ``error`` when the text
    is malformed, the file or name is missing, or the user's code fails, naming the exception.
    """
    if not is_factory(text):
        raise error(f"{option} {text!r} must be FILE.py:factory or package.module:factory")
    place, _, name = text.rpartition(":")
    folder = Path(place).resolve().parent if place.endswith(".py") else Path.cwd()
    with _importable(folder):
        module = _guard(lambda: _import(place, error), error, place)
        factory = _find(module, name, place, error)
        value = _guard(factory, error, f"{place}:{name}()")
    file = Path(module.__file__) if getattr(module, "__file__", None) else None
    label = f"{Path(place).name}:{name}" if place.endswith(".py") else text
    return UserResult(value, file, label)


def _import(place: str, error: type[EdgekdError]) -> ModuleType:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place)
    if not path.is_file():
        raise error(f"{place}: no such file")
    # A name of its own: the user's model.py must not replace an installed package called model.
    name = f"edgekd_user_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise error(f"{place}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _find(module: ModuleType, name: str, place: str, error: type[EdgekdError]) -> Callable[[], Any]:
    factory = getattr(module, name, None)
    if callable(factory):
        return factory  # type: ignore[no-any-return]
    if factory is not None:
        raise error(f"{place}: {name} is a {type(factory).__name__}, not a function")
    public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    near = difflib.get_close_matches(name, public, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise error(f"{place} has no function {name}{hint}")


def _guard(call: Callable[[], Any], error: type[EdgekdError], where: str) -> Any:
    """Call user code; whatever it raises becomes ``error`` with the exception's type and line."""
    try:
        return call()
    except EdgekdError:
        raise
    except (Exception, SystemExit) as failure:
        raise error(f"{where} failed: {type(failure).__name__}: {first_line(failure)}") from failure


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the user's file import its neighbours, as ``python FILE.py`` does."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)
