"""The download of headers: what is there is taken, and one line where there can be none."""

from __future__ import annotations

from pathlib import Path

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "onnxruntime_headers.py"


def test_headers_that_are_there_are_taken(run_python, tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "include" / "onnxruntime"
    folder.mkdir(parents=True)
    (folder / "onnxruntime_cxx_api.h").touch()
    done = run_python(str(SCRIPT), str(tmp_path), PATH="/nowhere")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{folder}\n", "")


def test_without_apt_it_says_so(run_python, tmp_path: Path) -> None:
    done = run_python(str(SCRIPT), str(tmp_path / "new"), PATH="/nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no headers of ONNX Runtime: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new" / "apt").exists()
