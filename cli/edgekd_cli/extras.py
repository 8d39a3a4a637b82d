"""Say what is missing before anything starts, instead of an ImportError half way."""

from __future__ import annotations


def require_compress() -> None:
    """Raise MissingExtraError when a package of the ``compress`` extra is not installed."""
    from edgekd_hardware.packages import COMPRESS, installed_version

    from edgekd.errors import MissingExtraError

    absent = [module for module in COMPRESS if installed_version(module) is None]
    if absent:
        raise MissingExtraError(f'needs {", ".join(absent)}: pip install "edgekd[compress]"')
