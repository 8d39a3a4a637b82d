"""Measuring over SSH, through a real sshd on this machine that plays the board."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgekd_hardware.board import Board, measure_on
from edgekd_hardware.ssh import Address, Connection
from onnx import TensorProto, helper

from edgekd.bench import LatencyReport, Protocol
from edgekd.bench.runner import run_worker
from edgekd.errors import MeasurementError

ROOT = Path(__file__).parent.parent.parent
FEW = ("--processes", "2", "--rounds", "5")
SHORT = Protocol(processes=1, rounds=5, warmup_ms=1)
BOARD = Address("board")


def write_model(path: Path, *, ir_version: int = 8) -> Path:
    """Write y = relu(x)."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx")


@pytest.fixture
def bench(run_cli: Any, sshd: Any, interpreter: Any) -> Callable[..., Any]:
    """Run ``edgekd bench`` on the board."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        options = board_options(sshd.config("cli"), interpreter)
        done: subprocess.CompletedProcess[str] = run_cli("bench", *FEW, *options, *arguments)
        return done

    return run


def board_options(config: Path, interpreter: Any) -> list[str]:
    python = str(interpreter.path)
    return ["--device", "ssh://board", "--ssh-config", str(config), "--device-python", python]


def connect(config: Path, interpreter: Any) -> Connection:
    return Connection(BOARD, str(interpreter.path), config)


def left_on(interpreter: Any) -> list[str]:
    return sorted(path.name for path in interpreter.temporary.iterdir())


def test_measures_there_and_leaves_nothing(
    bench: Any, interpreter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a b.onnx", "c';$(touch pwned)`touch pwned`\"&.onnx", "-rf *.onnx"]
    for name in names:
        write_model(tmp_path / name)

    done = bench("--out", "out/report.json", "--json", "--", *names)

    assert done.returncode == 0, done.stderr
    assert left_on(interpreter) == [] and not list(tmp_path.rglob("pwned"))
    assert not (Path.home() / "pwned").exists()  # where the board's shell starts
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    report = LatencyReport.from_dict(stored)
    assert set(report.models) == set(names) and report.baseline == names[0]
    for latency in report.models.values():
        assert [len(row) for row in latency.samples_ms] == [5, 5]
        assert min(min(row) for row in latency.samples_ms) > 0
    assert report.machine["architecture"] and report.machine["usable_cores"] >= 1
    assert report.conditions["device"] == "ssh://board"
    assert set(report.conditions) == {"device", "before", "during", "after", "throttling"}
    assert report.conditions["during"]  # of a process that warms three models up for 0.2 s each
    shown = json.loads(done.stdout)
    assert "samples_ms" not in shown["models"][names[0]]
    assert report.to_dict(samples=False) == shown


def test_the_table_names_the_board(bench: Any, model: Path) -> None:
    done = bench(str(model))
    assert done.returncode == 0, done.stderr
    assert "ssh://board: " in done.stdout and "thrott" in done.stdout


def test_a_login_that_prints_does_no_harm(sshd: Any, interpreter: Any, model: Path) -> None:
    config = sshd.config("noisy", IdentityFile=str(sshd.folder / "noisy"))
    connection = connect(config, interpreter)
    report = measure_on(connection, {"m": model}, baseline="m", protocol=SHORT)
    assert report.runtime.startswith("onnxruntime ") and connection.left is None
    assert left_on(interpreter) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"UserKnownHostsFile": "/dev/null"}, "host key is not known yet"),
        ({"UserKnownHostsFile": "{folder}/other_hosts"}, "host key is not the one"),
        ({"IdentityFile": "{folder}/stranger"}, "did not let you in"),
        ({"Port": "1"}, "cannot be reached: connect to host 127.0.0.1 port 1: Connection refused"),
        ({"HostName": "no-such-host.invalid"}, "cannot be reached: Could not resolve hostname"),
    ],
)
def test_says_why_there_is_no_connection(
    sshd: Any, interpreter: Any, changed: dict[str, str], words: str
) -> None:
    stranger = (sshd.folder / "stranger.pub").read_text()
    (sshd.folder / "other_hosts").write_text(f"[127.0.0.1]:{sshd.port} {stranger}")
    settings = {key: value.format(folder=sshd.folder) for key, value in changed.items()}
    with (
        pytest.raises(MeasurementError, match=words) as caught,
        connect(sshd.config("refused", **settings), interpreter),
    ):
        raise AssertionError("it connected")
    assert str(caught.value).startswith("ssh://board") and "\n" not in str(caught.value)


def test_an_error_of_ssh_is_one_line_and_exit_code_2(
    run_cli: Any, sshd: Any, interpreter: Any, model: Path, tmp_path: Path
) -> None:
    options = board_options(sshd.config("cli-refused", Port="1"), interpreter)
    report = tmp_path / "report.json"
    done = run_cli("bench", str(model), *FEW, *options, "--out", str(report))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ssh://board cannot be reached")
    assert not report.exists()


OLD = 'import sys; sys.version_info = (3, 6, 9); sys.version = "3.6.9 (old)"; exec(sys.argv[1])'


@pytest.mark.parametrize(
    ("setup", "command", "words"),
    [
        ("", 'exec "$PYTHON" -S "$@"', "its Python has no numpy and no onnxruntime: run there"),
        ("", f'exec "$PYTHON" -c \'{OLD}\' "$2"', "is Python 3.6.9, edgekd needs 3.8"),
        ("", "exit 127", "there is no .* that runs"),
        ("", "echo broken >&2; exit 1", "the connection ended: broken"),
        # /dev/full has no size that a limit of this kind would need; a limit on files fails alike
        ("ulimit -f 8", 'exec "$PYTHON" "$@"', "edgekd-.*: File too large"),
    ],
)
def test_says_what_is_wrong_with_the_board(
    sshd: Any, interpreter: Any, model: Path, setup: str, command: str, words: str
) -> None:
    interpreter.write(setup, command)
    with pytest.raises(MeasurementError, match=words) as caught:
        measure_on(
            connect(sshd.config("wrong"), interpreter), {"m": model}, baseline="m", protocol=SHORT
        )
    assert "ssh://board" in str(caught.value) and "\n" not in str(caught.value)
    assert left_on(interpreter) == []


def test_models_that_cannot_be_measured_there(
    sshd: Any, interpreter: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not ONNX")
    new = write_model(tmp_path / "new.onnx", ir_version=99)
    for path, words in (
        (broken, r"^ssh://board: model 'm' cannot be loaded: "),
        (new, r"model 'm' needs a newer onnxruntime \(Unsupported model IR version: 99, .*-U onnx"),
        (tmp_path / "none.onnx", "there is no model file"),
    ):
        with pytest.raises(MeasurementError, match=words) as caught:
            measure_on(
                connect(sshd.config("bad"), interpreter), {"m": path}, baseline="m", protocol=SHORT
            )
        assert "\n" not in str(caught.value)
        assert left_on(interpreter) == []


def test_a_full_disk_is_seen_before_the_copy(sshd: Any, interpreter: Any, model: Path) -> None:
    class Full(Connection):
        """Connects to a board that says it has 1 MB left."""

        def __enter__(self) -> Connection:
            super().__enter__()
            self.free_bytes = 1_000_000
            return self

    connection = Full(BOARD, str(interpreter.path), sshd.config("full"))
    with pytest.raises(MeasurementError, match=r"the models need 1\.0 MB .* 1\.0 MB are free"):
        measure_on(connection, {"m": model}, baseline="m", protocol=SHORT)
    assert left_on(interpreter) == []


def test_a_process_that_takes_too_long_is_ended(sshd: Any, interpreter: Any, model: Path) -> None:
    with connect(sshd.config("slow"), interpreter) as connection:
        board = Board(connection)
        (path,) = board.bring([model]).values()
        job = {
            "models": {"m": {"path": path, "runtime": "onnxruntime", "precision": None}},
            "protocol": Protocol(rounds=10**7).to_dict(),
            "process": 0,
            "same_inputs": True,
        }
        with pytest.raises(MeasurementError, match="took more than 1 s; use fewer rounds"):
            run_worker("edgekd.bench.worker", job, 1, board)
        assert worker_of(interpreter) is None
    assert left_on(interpreter) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_cleans_up(
    sshd: Any, interpreter: Any, model: Path, tmp_path: Path, number: int
) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "edgekd_cli", "bench", str(model), "--rounds", "100000000"]
    command += [*board_options(sshd.config("interrupted"), interpreter), "--out", str(report)]
    paths = os.pathsep.join(str(ROOT / name) for name in ("", "cli", "hardware"))
    running = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True
    )
    with running:
        wait_until(lambda: "model_0.onnx" in str(list(interpreter.temporary.rglob("*"))))
        wait_until(lambda: worker_of(interpreter) is not None)
        worker = worker_of(interpreter)
        running.send_signal(number)
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == (130 if number == signal.SIGINT else -number), stderr
    wait_until(lambda: left_on(interpreter) == [])  # a killed edgekd cannot wait for it
    wait_until(lambda: worker_of(interpreter) is None)
    assert worker is not None and not report.exists()


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within 30 s")


def worker_of(interpreter: Any) -> int | None:
    """Return the process that measures in the board's folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            here = (process / "cwd").readlink().is_relative_to(interpreter.temporary)
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if here and b"edgekd.bench.worker" in line:
            return int(process.name)
    return None


VCGENCMD = """#!/bin/sh
case "$1" in
get_throttled)
  if [ -e "{seen}" ]; then echo throttled=0xe0008; else echo throttled=0x0; fi
  : > "{seen}";;
measure_clock) echo "frequency(0)=1500398464";;
esac
"""


@pytest.fixture
def hot(interpreter: Any, tmp_path: Path) -> Any:
    """A board like a Raspberry Pi whose firmware throttles while it is measured."""
    write_tree(
        tmp_path / "root",
        {
            "class/thermal/thermal_zone0/type": "cpu-thermal",
            "class/thermal/thermal_zone0/temp": "84173",
            "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000",
            "devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1500000",
            "devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
        },
    )
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "vcgencmd").write_text(VCGENCMD.format(seen=tmp_path / "seen"))
    (tools / "vcgencmd").chmod(0o755)
    root = f"export EDGEKD_SYSTEM_ROOT='{tmp_path / 'root'}'"
    interpreter.write(f"{root} PATH='{tools}':\"$PATH\"")
    return interpreter


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def test_a_board_that_throttles_gives_no_verdict(
    bench: Any, hot: Any, model: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    done = bench(str(model), "--out", str(report))
    assert done.returncode == 3
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "the firmware reports soft temperature limit" in line
    assert "(hottest: cpu-thermal, 84.2 C)" in line and "--allow-throttling" in line
    assert not report.exists() and left_on(hot) == []

    (tmp_path / "seen").unlink()
    done = bench(str(model), "--out", str(report), "--allow-throttling")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "governor ondemand, clocks 1500 to 1500 MHz, hottest cpu-thermal, 84.2 C" in text
    assert "SLOWED DOWN: the firmware reports clock capped" in text
    stored = LatencyReport.from_dict(json.loads(report.read_text()))
    assert stored.machine["max_mhz"] == 1500 and len(stored.conditions["throttling"]) == 3
    assert stored.conditions["before"]["firmware"]["arm_mhz"] == 1500.4


def test_no_ssh_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeasurementError, match="there is no ssh here"), Connection(BOARD):
        pass
