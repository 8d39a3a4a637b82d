"""``edgekd distill-advice``, end to end."""

from __future__ import annotations

import json
from pathlib import Path

from advice_pairs import Cnn, Patches, write_pair
from networks import build


def test_a_pair_is_judged_and_advised(run_cli, tmp_path: Path) -> None:
    request = write_pair(tmp_path, build(lambda: Cnn(16)), build(Patches))
    args = ["distill-advice", str(request.teacher), request.student, "--data", request.data]
    done = run_cli(*args)
    assert done.returncode == 0, done.stderr
    for words in ("parameters", "raw feature hints make no sense", "labels that are not", "KL"):
        assert words in done.stdout
    done_text = done.stdout
    done = run_cli(*args, "--json")
    found = json.loads(done.stdout)
    assert found["capacity"]["parameter_ratio"] > 1
    assert found["hints"]["verdict"] == "no"
    assert found["advice"][0]["role"] == "base"
    assert all(advice["sources"] for advice in found["advice"])
    # Labels are drawn at random here, and that is seen.
    assert found["recommendation"]["recipe"] == "student-soft-labels"
    assert f"  run it: {found['recommendation']['command']}" in done_text.splitlines()


def test_what_does_not_fit_exits_2_with_one_line(run_cli, tmp_path: Path) -> None:
    request = write_pair(tmp_path, build(Cnn), "four_classes")
    data = ["--data", request.data]
    done = run_cli("distill-advice", str(request.teacher), request.student, *data)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("error: the student gives output: float32[N, 4]")
    assert run_cli("distill-advice", str(request.teacher), request.student).returncode == 2
