"""What several test files share."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import commands
import pytest

# Before torch is imported: waiting threads must not spin on a machine that others use too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# For networks as small as here, that cache costs more than it saves.
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # there are as many workers as cores

# A shell starts what runs in its background with Ctrl-C ignored, and commands under test would
# inherit that: one that is interrupted would measure for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
PATHS = [str(ROOT), str(ROOT / "cli"), str(ROOT / "hardware")]
RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**env: str) -> dict[str, str]:
    """Return the environment of a command, which finds this checkout's packages first."""
    paths = [*PATHS, env.pop("PYTHONPATH")] if "PYTHONPATH" in env else PATHS
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "120", **env}


@pytest.fixture(scope="session")
def run_python() -> RunCli:
    """Run a fresh Python that finds the packages of this checkout, whatever is installed."""

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args],
            env=environment(**env),
            capture_output=True,
            text=True,
            check=False,
            timeout=commands.TIMEOUT,
        )

    return run


@pytest.fixture(scope="session")
def run_cli(run_python: RunCli, tmp_path_factory: pytest.TempPathFactory) -> RunCli:
    """Run the real command line: ``run_cli("targets", "--json", NO_COLOR="1")``.

    A command that needs torch would import for seconds, so it is forked from a process that has
    done that. ``fresh=True`` starts a new Python, as does a PYTHONPATH of the test's own.
    """
    folder = tmp_path_factory.mktemp("printed")

    def run(*args: str, fresh: bool = False, **env: str) -> subprocess.CompletedProcess[str]:
        if fresh or "PYTHONPATH" in env:
            return run_python("-m", "edgekd_cli", *args, **env)
        return commands.run_forked(args, environment(**env), folder)

    commands.start_server(PATHS)
    return run


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Public models and data beside the repository; tests that need them skip without."""
    folder = ROOT.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("needs the public models and data in ../shared")
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_registry_of_translations() -> Iterator[None]:
    """Let torch's ONNX exporter read its translations once.

    It parses the source of all of them, some 500 functions, for every single export: a fifth of the
    time of all tests. A copy for each export keeps what one adds from the next.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = cache(ONNXRegistry.from_torchlib)

    def copy_of(**options: int) -> ONNXRegistry:
        registry = copy.copy(read(**options))
        registry.functions = {name: list(known) for name, known in registry.functions.items()}
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(copy_of))
        yield
