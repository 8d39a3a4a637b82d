"""What runs on a device: old Python syntax, and nothing but numpy and onnxruntime."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgekd

PACKAGE = Path(edgekd.__file__).parent
ON_DEVICE = sorted((PACKAGE / "runtime").glob("*.py")) + [
    PACKAGE / name for name in ("__init__.py", "errors.py", "spec.py", "preprocessing.py")
]
HEAVY = ("torch", "onnx", "pydantic", "typer", "rich", "yaml", "PIL", "sklearn")


@pytest.mark.parametrize("path", ON_DEVICE, ids=lambda path: path.name)
def test_parses_on_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    futures = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    assert futures, "annotations must not be evaluated"


def test_imports_nothing_heavy() -> None:
    code = f"import sys, edgekd.runtime; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    assert found.stdout.strip() == "[]"
