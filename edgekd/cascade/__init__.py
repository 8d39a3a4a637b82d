"""Early exits on the deployed graph: segments, their times, and the thresholds to leave by."""

from __future__ import annotations

from edgekd.cascade.build import Built, build_cascade

__all__ = ["Built", "build_cascade"]
