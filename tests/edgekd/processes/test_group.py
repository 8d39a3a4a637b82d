"""A run without torchrun, and what a process of torchrun knows from its environment."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgekd.processes import group
from edgekd.processes.sharing import shared


def test_without_torchrun_work_is_a_plain_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # of a cluster's scheduler, not of torchrun
    monkeypatch.setenv("RANK", "3")
    value = object()
    assert group.by_first(lambda: value) is value
    assert (group.count(), group.rank(), group.is_first()) == (1, 0, True)
    inputs = (torch.ones(3, 2),)
    assert shared(lambda given: [*given], inputs)[0] is inputs[0]
    assert not group.is_lost(RuntimeError("gloo")) and group.say_first("line")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(group.StageError, match=r"2 processes .* 1 GPUs; give --nproc"):
        group.connect()


def test_torchrun_is_for_compress_alone(run_cli: Any) -> None:
    settings = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}
    done = run_cli("doctor", **settings)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "error: torchrun is for 'edgekd compress' alone; run this without it\n"
