"""Pieces of the README files beside what is deployed."""

from __future__ import annotations

from edgekd.runtime.manifest import Manifest
from edgekd.spec import ModelSpec


def tensor_lines(spec: ModelSpec) -> str:
    """Return inputs and outputs as a list, ``N`` for an open axis."""
    tensors = [("input", tensor) for tensor in spec.inputs]
    tensors += [("output", tensor) for tensor in spec.outputs]
    return "\n".join(f"- {side} `{plain(str(tensor))}`" for side, tensor in tensors)


def preprocessing_text(manifest: Manifest) -> str:
    """Say what has to be done with images before they are an input."""
    if not manifest.preprocessing:
        return "The inputs are taken as they are."
    lines = []
    for name, step in manifest.preprocessing.items():
        mean, std = (", ".join(f"{value:g}" for value in part) for part in (step.mean, step.std))
        lines.append(
            f"`{plain(name)}`: uint8 images ({step.layout}) become float32 NCHW, "
            f"(pixels / 255 - mean) / std, with mean {mean} and std {std} by channel. That is up "
            "to whoever calls."
        )
    return "\n\n".join(lines)


def bullets(notes: tuple[str, ...]) -> str:
    """Return notes as a list with an empty line behind, nothing where there are none."""
    return "".join(f"- {plain(note)}\n" for note in notes) + ("\n" if notes else "")


def plain(text: str) -> str:
    """Return a text of the manifest on one line and without the marks that end code."""
    shown = "".join(char if char.isprintable() and char != "`" else "?" for char in text)
    return shown.encode("utf-8", "replace").decode("utf-8")
