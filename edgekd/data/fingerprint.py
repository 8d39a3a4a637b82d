"""Say exactly which samples a set holds, and find samples that two sets share."""

from __future__ import annotations

import hashlib
from typing import Any

from edgekd.data.samples import StoredSamples


def digests(samples: StoredSamples) -> list[bytes]:
    """Return the hash of every sample's inputs, in order."""
    return [samples.digest(index) for index in range(len(samples))]


def fingerprint(samples: StoredSamples, hashes: list[bytes], source: str) -> dict[str, Any]:
    """Return ``count``, ``sha256`` (inputs and targets, in order) and ``source`` as plain data."""
    hasher = hashlib.sha256(b"".join(hashes))
    if samples.targets is not None:
        hasher.update(f"{samples.targets.dtype}:{samples.targets.shape};".encode())
        hasher.update(samples.targets.tobytes())
    return {"count": len(samples), "sha256": hasher.hexdigest(), "source": source}


def overlap_notes(hashes: dict[str, list[bytes]]) -> tuple[str, ...]:
    """Return a warning when validation samples are also trained or calibrated on."""
    seen = {*hashes["train"], *hashes["calibration"]}
    shared = sum(digest in seen for digest in hashes["validation"])
    if not shared:
        return ()
    total = len(hashes["validation"])
    return (
        f"{shared} of {total} validation samples are also in the training data (exact copies): "
        "accuracy on them says little about new data",
    )
