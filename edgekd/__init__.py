"""edgekd: make trained PyTorch models small and fast enough for edge devices, and prove it.

Importing this package is cheap: nothing heavy is loaded until it is used.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "compress", "save_model"]


def __getattr__(name: str) -> Any:
    """Load the names that need torch only when they are asked for (PEP 562)."""
    if name == "save_model":
        from edgekd.model.save import save_model

        return save_model
    if name == "compress":
        from edgekd.pipeline import compress

        return compress
    raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
