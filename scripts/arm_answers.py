"""What a bundle answers, written to a file: run here and in the emulated machine alike.

``python arm_answers.py JOB.json``. The job is ``{"bundles": [{"folder", "feed"}], "out": FILE}``,
where ``feed`` is a .npz file of the model's inputs for all samples. Of every bundle each model and
each operating point of its early exits is called as production does it, through ``edgekd.runtime``,
sample by sample on one thread. ``out`` gets ``{bundle}/{model}`` -> ``(samples, ...)`` outputs and,
for operating points, ``{bundle}/{point}/exits``; ``machine`` says where it ran. Needs numpy and
onnxruntime only.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.runtime import Cascade, load


def main() -> None:
    """Answer the job."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    found: dict[str, Any] = {"machine": platform.machine()}
    for number, bundle in enumerate(job["bundles"]):
        with np.load(bundle["feed"], allow_pickle=False) as stored:
            feed = {name: stored[name] for name in stored.files}
        for name, array in answers(bundle["folder"], feed).items():
            found[f"{number}/{name}"] = array
    np.savez(job["out"], **found)


def answers(folder: str, feed: dict[str, Any]) -> dict[str, Any]:
    """Return what every model and operating point of a bundle gives for all samples of ``feed``."""
    count = len(next(iter(feed.values())))
    rows = [{name: array[i : i + 1] for name, array in feed.items()} for i in range(count)]
    found = {}
    first = load(folder, "compressed", threads=1)
    for role in first.manifest.models:
        with load(folder, role, threads=1) as model:
            found[role] = np.concatenate([model(**row) for row in rows])
    cascade = first.manifest.cascade
    for point in cascade.operating_points if cascade else ():
        with load(folder, operating_point=point, threads=1) as model:
            assert isinstance(model, Cascade)
            given = [model.run(**row) for row in rows]
        found[point] = np.concatenate([answer.outputs for answer in given])
        found[f"{point}/exits"] = np.concatenate([answer.exits for answer in given])
    return found


if __name__ == "__main__":
    main()
