"""Commands of edgekd, each in a process of its own that has the imports behind it already."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest

TIMEOUT = 300.0  # seconds; the machine may be busy
FORKING = multiprocessing.get_context("forkserver")


def start_server(paths: list[str]) -> None:
    """Start the process that all commands are forked from, with the imports of ``compress``.

    It looks for packages in ``paths`` first.
    """
    FORKING.set_forkserver_preload(["edgekd_cli.app", "edgekd.job"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        forkserver.ensure_running()


def run_forked(
    arguments: tuple[str, ...], env: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run ``edgekd`` with this environment; ``folder`` is for what it prints."""
    stdout, stderr = folder / "stdout", folder / "stderr"
    process = FORKING.Process(target=_command, args=(arguments, env, Path.cwd(), stdout, stderr))
    process.start()
    process.join(TIMEOUT)
    if process.is_alive():
        process.kill()
        raise subprocess.TimeoutExpired(arguments, TIMEOUT)
    assert process.exitcode is not None
    return subprocess.CompletedProcess(
        arguments, process.exitcode, stdout.read_text("utf-8"), stderr.read_text("utf-8")
    )


def _command(
    arguments: tuple[str, ...], env: dict[str, str], cwd: Path, stdout: Path, stderr: Path
) -> None:
    from edgekd_cli.app import main

    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, path in ((1, stdout), (2, stderr)):
        with path.open("w") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["edgekd", *arguments]
    main()
