"""What runs on a device: old Python syntax, and nothing but numpy and onnxruntime."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from edgekd_hardware import board_agent, runner_archive

import edgekd

PACKAGE = Path(edgekd.__file__).parent
ON_DEVICE = sorted(
    {
        *(PACKAGE / "runtime").glob("*.py"),
        *(PACKAGE / "engine").glob("*.py"),
        *(PACKAGE / name for name in ("__init__.py", "errors.py", "spec.py", "preprocessing.py")),
        # What measures on a board, and the agent that starts it there.
        *runner_archive.sources().values(),
        Path(board_agent.__file__),
    }
)
HEAVY = ("torch", "onnx", "pydantic", "typer", "rich", "yaml", "PIL", "sklearn", "openvino")


@pytest.mark.parametrize("path", ON_DEVICE, ids=lambda path: path.name)
def test_parses_on_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    futures = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    only_words = all(isinstance(node, ast.Expr) for node in tree.body)
    assert futures or only_words, "annotations must not be evaluated"


def test_imports_nothing_heavy() -> None:
    code = f"import sys, edgekd.runtime; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", ON_DEVICE, ids=lambda path: path.name)
def test_evaluates_nothing_newer_than_python_3_8(path: Path) -> None:
    """``tuple[int]`` may stand in an annotation, which stays text, but nowhere else."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    text = {id(part) for root in not_evaluated(tree) for part in ast.walk(root)}
    for node in (node for node in ast.walk(tree) if id(node) not in text):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in ("tuple", "list", "dict", "set", "type"), node.lineno
            assert node.value.id not in ("Callable", "Mapping", "Sequence", "Iterator"), node.lineno
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):  # X | None as an alias
            sides = [ast.unparse(side) for side in (node.left, node.right)]
            assert not {"None", "str", "int", "float", "Path", "Any"} & set(sides), node.lineno
        if isinstance(node, ast.keyword):
            assert node.arg not in ("strict", "slots", "kw_only"), node.value.lineno
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("removeprefix", "removesuffix", "is_relative_to"), node.lineno


def not_evaluated(tree: ast.AST) -> list[ast.AST]:
    """Return annotations of variables, arguments and results, and ``if TYPE_CHECKING`` blocks."""
    found: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.AnnAssign, ast.arg)):
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            found.append(node.returns)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found.append(node)
    return [annotation for annotation in found if annotation is not None]
