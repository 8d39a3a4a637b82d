"""Does an engine answer as the ONNX model does that it was built from?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekd.runtime.opening import Session

    Arrays = Mapping[str, npt.NDArray[Any]]

# The largest ||engine - ONNX|| / ||ONNX|| over all samples. FP32 layers of TensorRT multiply in
# TF32, which keeps 10 bits after the point, as FP16 does; in FP16 sums are rounded as well. A value
# on the border of two of INT8's steps may go to either, and takes what follows along: inputs that
# differ by 0.05 % change the answers of INT8 models by up to 2.7 % (docs/engines.md).
TOLERANCES = {"float32": 0.005, "float16": 0.02, "int8": 0.1}
VALIDATION, RANDOM = "validation", "random"
DISAGREE = 0.005  # of the samples may have another class where ONNX's was clear; one always may


@dataclass(frozen=True)
class Verification:
    """How far an engine's answers are from those of its ONNX model.

    ``agreement`` is the share of samples with the same largest output (None where outputs are no
    logits), ``clear_disagreements`` the number of the others where the ONNX model's largest was
    ahead by more than the tolerance explains. ``largest_difference`` is that of any number,
    ``relative_error`` the norm of all differences by that of the answers, which may be
    ``tolerance``; both are None where the engine gives NaN or infinity. ``inputs`` says what was
    asked: ``validation`` samples or ``random`` numbers, where agreement decides nothing, since a
    network's class of noise means little.
    """

    samples: int
    inputs: str
    agreement: float | None
    clear_disagreements: int
    largest_difference: float | None
    relative_error: float | None
    tolerance: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """Say in words how it ended."""
        agree = "" if self.agreement is None else f"agreement {100 * self.agreement:.2f} %, "
        if self.relative_error is None:
            return f"{agree}numbers that are not finite, {self.samples} {self.inputs} samples"
        return (
            f"{agree}relative error {self.relative_error:.2g} (at most {self.tolerance:g}), "
            f"largest difference {self.largest_difference:.3g}, {self.samples} {self.inputs} "
            "samples"
        )


def answers(session: Session, inputs: Arrays, batch: int) -> dict[str, npt.NDArray[Any]]:
    """Run ``session`` over all samples, ``batch`` at a time; return output name -> array."""
    names = [tensor.name for tensor in session.outputs]
    count = len(next(iter(inputs.values())))
    parts = [
        session.run(names, {name: rows[at : at + batch] for name, rows in inputs.items()})
        for at in range(0, count, batch)
    ]
    return {
        name: np.concatenate([np.asarray(part[index]) for part in parts])
        for index, name in enumerate(names)
    }


def compare(
    found: Arrays, wanted: Arrays, *, precision: str, logits: bool, inputs: str
) -> Verification:
    """Compare two sets of answers, output name -> array with a row for each sample.

    ``precision`` is the coarsest that the engine computes in, a key of ``TOLERANCES``. ``logits``:
    the largest number of the first output is the answer. Raises ValueError where names or shapes
    differ.
    """
    if set(found) != set(wanted):
        raise ValueError(f"outputs {sorted(found)} cannot be compared with {sorted(wanted)}")
    largest, error, size = 0.0, 0.0, 0.0
    for name, expected in wanted.items():
        if found[name].shape != expected.shape:
            raise ValueError(f"{name} is {found[name].shape}, not {expected.shape}")
        right = expected.astype(np.float64)
        apart = found[name].astype(np.float64) - right
        apart[~np.isfinite(apart)] = np.inf  # a NaN must never look small
        largest = max(largest, float(np.abs(apart).max(initial=0.0)))
        error += float(np.square(apart).sum())
        size += float(np.square(right).sum())
    relative = float(np.sqrt(error / size)) if size > 0 else float(np.sqrt(error))
    first = next(iter(wanted))
    samples = len(wanted[first])
    tolerance = TOLERANCES[precision]
    agreement, clear = None, 0
    if logits:
        differs = found[first].argmax(-1) != wanted[first].argmax(-1)
        agreement = float(1 - differs.mean())
        clear = int((differs & _is_clear(wanted[first], tolerance)).sum())
    agrees = inputs != VALIDATION or clear <= max(1, DISAGREE * samples)
    finite = bool(np.isfinite(relative))
    return Verification(
        samples,
        inputs,
        agreement,
        clear,
        largest if finite else None,
        relative if finite else None,
        tolerance,
        bool(agrees and relative <= tolerance),
    )


def _is_clear(logits: npt.NDArray[Any], tolerance: float) -> npt.NDArray[np.bool_]:
    """Tell where the largest is ahead of the next by more than both may move.

    As a whole answers may move by ``tolerance`` of their root mean square.
    """
    if logits.shape[-1] < 2:
        return np.zeros(logits.shape[:-1], bool)
    values = logits.astype(np.float64)
    top = np.partition(values, -2, axis=-1)[..., -2:]
    moved = tolerance * float(np.sqrt(np.mean(np.square(values))))
    return np.asarray(top[..., 1] - top[..., 0] > 2 * moved)
