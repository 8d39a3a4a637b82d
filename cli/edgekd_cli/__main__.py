"""``python -m edgekd_cli``, the same as ``edgekd``."""

from __future__ import annotations

from edgekd_cli.app import main

main()
