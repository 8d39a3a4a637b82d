"""How sure a classifier is of its answer, as one number in [0, 1]."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

ConfidenceKind: TypeAlias = Literal["probability", "margin", "entropy"]


def confidence(
    logits: NDArray[np.floating], kind: ConfidenceKind, temperature: float = 1.0
) -> NDArray[np.float32]:
    """Return the confidence ``(n,)`` of ``softmax(logits / temperature)``, in [0, 1].

    - ``probability``: the largest probability (SDN: Kaya et al., ICML 2019).
    - ``margin``: the largest minus the second largest one.
    - ``entropy``: 1 - H / ln(k), with H the entropy in nats (BranchyNet: Teerapittayanon et al.,
      ICPR 2016, uses H itself).

    Args:
        logits: ``(n, k)`` with k >= 2, finite. Computed in float64, with the peak taken out first.
        kind: which of the three.
        temperature: T > 0.

    Raises ValueError for other shapes, kinds and temperatures.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits need the shape (n, k) with k >= 2, not {logits.shape}")
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, not {temperature}")
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    logs = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    probabilities = np.exp(logs)
    if kind == "probability":
        value = probabilities.max(axis=1)
    elif kind == "margin":
        two = np.partition(probabilities, -2, axis=1)[:, -2:]
        value = two[:, 1] - two[:, 0]
    elif kind == "entropy":
        # p * log p goes to 0 with p, and log p is finite here, so that nothing becomes nan.
        value = 1 + (probabilities * logs).sum(axis=1) / np.log(logits.shape[1])
    else:
        raise ValueError(f"no confidence is called {kind!r}: probability, margin or entropy")
    result: NDArray[np.float32] = np.clip(value, 0, 1).astype(np.float32)
    return result
