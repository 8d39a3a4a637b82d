"""What goes into a model and what comes out: names, dtypes and shapes. numpy only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    ``shape`` includes the batch axis; an axis of any length (the batch) is None.
    ``dtype`` is a numpy name such as ``float32`` or ``int64``.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        axes = ", ".join("N" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype}[{axes}]"


@dataclass(frozen=True)
class ModelSpec:
    """The inputs and outputs of a model, in call order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelSpec:
        """Read what ``to_dict`` wrote; raises KeyError or TypeError on other data."""

        def read(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(str(e["name"]), str(e["dtype"]), tuple(e["shape"])) for e in entries
            )

        return cls(read(data["inputs"]), read(data["outputs"]))
