"""Small files in which Linux describes the machine.

``root`` is where its file tree starts: ``/`` on the machine itself, a recorded tree in the tests.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")


def read_text(path: Path) -> str | None:
    """Return what is in a file, without NULs and blanks around it; None if not readable."""
    try:
        return path.read_text("utf-8", "replace").strip("\0\n\t ") or None
    except (OSError, ValueError):
        return None


def read_number(path: Path) -> int | None:
    """Return the whole number in a file; None where there is none."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def board_model(root: Path = ROOT) -> str | None:
    """Return the name that an ARM board's device tree gives it."""
    return read_text(root / "proc/device-tree/model")
