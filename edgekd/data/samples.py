"""What a set of samples is: raw arrays by input name, fetched by index."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
NO_LABEL = -1  # among class labels: this sample has none
UNNAMED = "x"  # the key of a model's only input where the data does not name it


def positional_name(position: int) -> str:
    """Return the key of one of several inputs that the data does not name."""
    return f"input_{position}"


def is_positional(name: str) -> bool:
    """Tell whether ``positional_name`` made this name."""
    return name.startswith("input_") and name.removeprefix("input_").isdigit()


class Samples(Protocol):
    """A set of samples that are decoded on demand."""

    def __len__(self) -> int:
        """Return how many samples there are."""
        ...

    def batch(self, indices: Indices) -> tuple[dict[str, Array], Array | None]:
        """Return raw inputs by name and the targets of these samples, batch on axis 0.

        Images are uint8 in the dataset's layout, everything else as stored. Integer targets are
        int64 (class labels), float targets float32; None where the data has no targets.
        """
        ...


class StoredSamples(Samples, Protocol):
    """Samples that also tell what they hold without decoding, for splits and fingerprints."""

    @property
    def targets(self) -> Array | None:
        """All targets, in order."""
        ...

    def digest(self, index: int) -> bytes:
        """Return a hash of one sample's inputs."""
        ...


@dataclass(frozen=True)
class ArraySamples:
    """Samples held in memory: ``arrays[name][i]`` is sample i's input ``name``."""

    arrays: dict[str, Array]
    targets: Array | None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batch(self, indices: Indices) -> tuple[dict[str, Array], Array | None]:
        """Return copies of the rows ``indices``."""
        inputs = {name: array[indices] for name, array in self.arrays.items()}
        return inputs, None if self.targets is None else self.targets[indices]

    def digest(self, index: int) -> bytes:
        """Hash one row of every input, with its name, dtype and shape."""
        hasher = hashlib.sha256()
        for name, array in self.arrays.items():
            row = np.ascontiguousarray(array[index])
            hasher.update(f"{name}:{row.dtype}:{row.shape};".encode())
            hasher.update(row.tobytes())
        return hasher.digest()


@dataclass(frozen=True)
class Subset:
    """Some samples of another set, in the order of ``indices``; nothing is copied."""

    parent: StoredSamples
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Indices) -> tuple[dict[str, Array], Array | None]:
        """Return the parent's samples at these places of the subset."""
        return self.parent.batch(self.indices[indices])

    @property
    def targets(self) -> Array | None:
        """The subset's targets, in its order."""
        return None if self.parent.targets is None else self.parent.targets[self.indices]

    def digest(self, index: int) -> bytes:
        """Return the parent's hash of that sample."""
        return self.parent.digest(int(self.indices[index]))
