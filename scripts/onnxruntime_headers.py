"""Download ONNX Runtime's C++ headers, which the Python package does not have, with Debian's apt.

    python scripts/onnxruntime_headers.py FOLDER

They are those of the package ``libonnxruntime-dev`` of the Debian release ``SUITE``. Prints the
folder of ``onnxruntime_cxx_api.h``; the tests of ``edgekd deploy cpp`` take it from the variable
ONNXRUNTIME_INCLUDE_DIR. Nothing is installed, and no root is needed. Exits with 1 and one line
where this cannot be done.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = "libonnxruntime-dev"
SUITE = "trixie"  # the first Debian with the package
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def main() -> int:
    """Download into the folder that the command line names."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python scripts/onnxruntime_headers.py FOLDER\n")
        return 1
    try:
        sys.stdout.write(f"{headers(Path(sys.argv[1]).resolve())}\n")
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"no headers of ONNX Runtime: {error}\n")
        return 1
    return 0


def headers(folder: Path) -> Path:
    """Return the folder of the headers below ``folder``; downloaded unless they are there."""
    found = folder / "usr" / "include" / "onnxruntime"
    if (found / "onnxruntime_cxx_api.h").is_file():
        return found
    work = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True, exist_ok=True)
    try:
        sites = run("apt-get", "indextargets", "--format", "$(SITE)", "Origin: Debian").split()
        site = next((site for site in sites if "security" not in site), None)
        if site is None:
            raise RuntimeError("apt has no source of Debian's; run apt-get update")
        (work / "sources.list").write_text(f"deb [signed-by={KEYS}] {site} {SUITE} main\n")
        settings = {
            "Dir::Etc::sourcelist": work / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::Lists": work / "lists",
            "Dir::Cache": work / "cache",
            "APT::Sandbox::User": "",  # a folder of the user's is not apt's own user's
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        run("apt-get", "-q", *options, "update")
        run("apt-get", "-q", *options, "download", PACKAGE, cwd=work)
        (package,) = work.glob(f"{PACKAGE}_*.deb")
        run("dpkg-deb", "-x", str(package), str(folder))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found


def run(*command: str, cwd: Path | None = None) -> str:
    """Return what a command prints; raises RuntimeError with its last line if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no output"]
        raise RuntimeError(f"{command[0]}: {lines[-1]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
