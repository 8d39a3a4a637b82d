"""Which Debian packages are installed, read from dpkg's own list."""

from __future__ import annotations

from pathlib import Path

from edgekd_hardware.system import ROOT, read_text


def installed_packages(root: Path = ROOT) -> dict[str, str]:
    """Return package -> version of all that are fully installed; empty where dpkg is not used."""
    found = {}
    for paragraph in (read_text(root / "var/lib/dpkg/status") or "").split("\n\n"):
        pairs = (line.partition(":") for line in paragraph.splitlines() if line[:1].strip())
        fields = {key: value.strip() for key, _, value in pairs}
        if fields.get("Status", "").endswith(" installed") and "Version" in fields:
            found[fields.get("Package", "")] = fields["Version"]
    return found
