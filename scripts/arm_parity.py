"""Do bundles give the same answers on a Raspberry Pi's processors as here? Needs no board.

    python scripts/arm_parity.py BUNDLE... [--data FILE.npz] [--samples N] [--cache DIR]

Every model and every operating point of each bundle is run here and on emulated Cortex-A72 and A76
processors, on the same samples, and a table says how far the answers are apart. Exits with 1 if
they differ by more than ``TOLERANCES`` allow.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from edgekd_cli.output import show_table

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(Path(__file__).resolve().parent)]

import arm_answers  # noqa: E402
from arm_machine import CPUS, Machine, MachineError  # noqa: E402

from edgekd.cache import default_cache  # noqa: E402
from edgekd.runtime.bundle import read_manifest  # noqa: E402

# Largest difference of an output, as a part of the largest output here. Float kernels sum in
# another order. Integer kernels are exact, but the float arithmetic between them may round what
# lies on the border of two steps to either, and the output then moves by some of its 256 steps.
TOLERANCES = {"float": 1e-5, "int8": 0.03}


@dataclass(frozen=True)
class Row:
    """A model or operating point on a processor, compared with here."""

    bundle: str
    model: str
    kind: str
    cpu: str
    samples: int
    same_class: int
    same_exit: int | None
    difference: float

    @property
    def passed(self) -> bool:
        """Whether every sample got the same class and exit, and the numbers are near enough."""
        exits = self.same_exit in (None, self.samples)
        near = self.difference <= TOLERANCES[self.kind]
        return exits and near and self.same_class == self.samples

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        exits = "-" if self.same_exit is None else f"{self.same_exit}/{self.samples}"
        return (
            self.bundle,
            self.model,
            self.kind,
            self.cpu,
            f"{self.same_class}/{self.samples}",
            exits,
            f"{self.difference:.1e}",
            f"{TOLERANCES[self.kind]:.0e}",
            "yes" if self.passed else "NO",
        )


COLUMNS = ("bundle", "model", "kind", "processor", ">same class", ">same exit", ">difference",
           ">allowed", "same")  # fmt: skip


def main() -> int:
    """Compare and show; return the exit code."""
    options = _options()
    try:
        rows = compare(options.bundles, options.data, options.samples, options.cache)
    except MachineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    show_table(COLUMNS, [row.cells() for row in rows])
    return 0 if all(row.passed for row in rows) else 1


def compare(bundles: list[Path], data: Path | None, samples: int, cache: Path) -> list[Row]:
    """Return a row for every bundle, model or operating point, and processor."""
    machine = Machine(cache)
    with TemporaryDirectory() as folder:
        work = Path(folder)
        entries = []
        for number, bundle in enumerate(bundles):
            feed = work / f"feed_{number}.npz"
            np.savez(feed, **_feed(bundle, data, samples))
            entries.append({"folder": str(bundle.resolve()), "feed": str(feed)})
        here = {
            f"{number}/{name}": array
            for number, entry in enumerate(entries)
            for name, array in arm_answers.answers(
                entry["folder"], dict(np.load(entry["feed"], allow_pickle=False))
            ).items()
        }
        rows: list[Row] = []
        for cpu in CPUS:
            job = work / "job.json"
            job.write_text(json.dumps({"bundles": entries, "out": str(work / "out.npz")}))
            machine.run(cpu, Path(arm_answers.__file__), str(job), path=[ROOT])
            there = dict(np.load(work / "out.npz", allow_pickle=False))
            if (ran_on := str(there.pop("machine"))) != "aarch64":
                raise MachineError(f"{cpu} was not emulated: the answers come from {ran_on}")
            assert set(there) == set(here)
            rows += _rows(bundles, cpu, here, there)
    order = {bundle.name: place for place, bundle in enumerate(bundles)}
    return sorted(rows, key=lambda row: order[row.bundle])


def _rows(
    bundles: list[Path], cpu: str, here: dict[str, Any], there: dict[str, Any]
) -> Iterator[Row]:
    for name, wanted in here.items():
        if name.endswith("/exits"):
            continue
        number, model = name.split("/")
        bundle, found = bundles[int(number)], there[name]
        exits = f"{name}/exits"
        same = here[exits] == there[exits] if exits in here else np.ones(len(wanted), bool)
        yield Row(
            bundle=bundle.name,
            model=model,
            kind=_kind(bundle, model),
            cpu=cpu,
            samples=len(wanted),
            same_class=int((wanted.argmax(-1) == found.argmax(-1)).sum()),
            same_exit=int(same.sum()) if exits in here else None,
            # A sample that left elsewhere has the answer of another layer: it counts above.
            difference=float(np.abs(wanted - found)[same].max() / np.abs(wanted).max()),
        )


def _kind(bundle: Path, model: str) -> str:
    """Return whether a model, or the first segment of an operating point's, quantizes."""
    manifest = read_manifest(bundle)
    cascade = manifest.cascade
    file = manifest.models.get(model) or (cascade.segments[0].file if cascade else "")
    graph = onnx.load(bundle / file).graph
    return "int8" if any(node.op_type == "QuantizeLinear" for node in graph.node) else "float"


def _feed(bundle: Path, data: Path | None, samples: int) -> dict[str, Any]:
    """Return inputs by name: images of ``data``, or random ones, integers being 0 and 1."""
    manifest = read_manifest(bundle)
    if data is not None:
        ((name, preprocessing),) = manifest.preprocessing.items()
        with np.load(data, allow_pickle=False) as stored:
            return {name: preprocessing(stored["x_val"][:samples])}
    rng = np.random.default_rng(0)
    feed = {}
    for tensor in manifest.spec.inputs:
        shape = [samples if size is None else size for size in tensor.shape]
        whole = tensor.dtype.startswith(("int", "uint", "bool"))
        values: Any = rng.integers(0, 2, shape) if whole else rng.standard_normal(shape)
        feed[tensor.name] = values.astype(tensor.dtype)
    return feed


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path, help="folders of bundles")
    parser.add_argument("--data", type=Path, help="a .npz file with images as x_val")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument(
        "--cache", type=Path, default=default_cache() / "arm", help="where the machine lies"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
