"""Open files of a bundle: plain ones, inside its folder. Nothing else is opened or waited for.

A name in a folder may be a link to any file of the machine, a pipe on which reading waits for ever,
or a device without an end.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from edgekd.errors import BundleError

_FLAGS = os.O_RDONLY
for _name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW", "O_BINARY"):  # not every system has all
    _FLAGS |= getattr(os, _name, 0)


def size_of(folder: Path, name: str) -> int:
    """Return the length in bytes of a plain file in ``folder``.

    Raises BundleError when it is missing, no plain file, or a link that leads out of the folder.
    Links inside the folder are followed: that is how Kubernetes mounts volumes.
    """
    try:
        return _plain(name, os.stat(_inside(folder, name)))  # noqa: PTH116 - one call for both
    except OSError as error:
        raise _unreadable(name, error) from error


def open_file(folder: Path, name: str) -> BinaryIO:
    """Open a plain file in ``folder`` for reading; raises what ``size_of`` raises."""
    size_of(folder, name)  # opening a device may already do something
    try:
        handle = os.open(_inside(folder, name), _FLAGS)
        file = os.fdopen(handle, "rb")
    except OSError as error:
        raise _unreadable(name, error) from error
    try:
        _plain(name, os.fstat(handle))  # of what was opened: the name may have changed since
    except BaseException:
        file.close()
        raise
    return file


def _inside(folder: Path, name: str) -> Path:
    """Return the path without links, after seeing that it does not lead out of the folder."""
    path = folder / name
    if not path.is_symlink():
        return path
    root, real = (os.path.realpath(place) for place in (folder, path))
    if os.path.commonpath([root, real]) != root:
        raise BundleError(f"{name} is a link out of the bundle's folder; copy the file itself")
    return Path(real)


def _plain(name: str, found: os.stat_result) -> int:
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(
            f"{name} is missing: what has that name is no plain file; copy the bundle again"
        )
    return found.st_size


def _unreadable(name: str, error: OSError) -> BundleError:
    if isinstance(error, FileNotFoundError):
        return BundleError(f"{name} is missing; copy the bundle again")
    return BundleError(f"{name} cannot be read: {error.strerror}")
