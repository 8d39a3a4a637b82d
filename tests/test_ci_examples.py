"""The CI files in examples/ are YAML, and what they run is what edgekd understands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from edgekd_cli.app import app

FILES = sorted((Path(__file__).parent.parent / "examples" / "ci").glob("*.yml"))


def commands(node: Any) -> list[str]:
    """Return every text in a document that runs edgekd."""
    if isinstance(node, dict):
        return [line for value in node.values() for line in commands(value)]
    if isinstance(node, list):
        return [line for value in node for line in commands(value)]
    return [node] if isinstance(node, str) and "edgekd gate --" in node else []


def test_there_are_some() -> None:
    assert {path.stem for path in FILES} == {"github-gate", "gitlab-gate"}


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_options_exist(path: Path) -> None:
    found = commands(yaml.safe_load(path.read_text("utf-8")))
    assert found
    gate = typer.main.get_command(app).commands["gate"]  # type: ignore[attr-defined]
    known = {option for parameter in gate.params for option in parameter.opts}
    for command in found:
        words = shlex.split(command.replace("\\\n", " "))
        used = {word for word in words if word.startswith("--")}
        assert used <= known, used - known
