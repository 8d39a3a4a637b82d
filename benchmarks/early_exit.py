"""Early exits on exported models: what they save over all validation samples, and what limits it.

    python -m benchmarks.early_exit MODEL --arch FILE.py:factory --data DATA.npz \\
        [--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --unlabeled DIR --exit-data DIR] \\
        [--at layer2.0,layer2.2 --joint-steps 3000 --max-drop 0.5 --cache DIR | --recipe FILE]

Runs ``compress`` with a stage ``early_exit``, in float and with ``quantize`` behind it, and prints
for every operating point of the two bundles: accuracy of the cascade against the same model without
exits and against the original, mean latency (single calls of batch 1 over all validation samples,
both in one process in random order, five processes), the latency that was expected from
calibration, and p50 and p99 by exit. The row ``full`` is what the split alone costs: every sample
goes through all segments. The last table has the same cascade as one file with ``If``, timed in
turns with the segments. Finished stages are in the cache.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.jobs import add_model_options, floats, time_in_turns
from edgekd.cascade.build import SINGLE
from edgekd.job import CompressRequest, prepare
from edgekd.pipeline import compress
from edgekd.progress import Silent
from edgekd.recipe import (
    EarlyExitStage,
    ExitHeads,
    OperatingPoint,
    QuantizeStage,
    Recipe,
    Stage,
    load_recipe,
    recipe_to_yaml,
)
from edgekd.runtime import load
from edgekd.training_settings import Recovery

Manifest = Mapping[str, Any]


def main() -> None:
    """Print all tables."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        for title, stages in _recipes(options).items():
            bundle = _compress(options, title, stages, Path(folder))
            manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
            _print_exits(title, manifest)
            if manifest["cascade"] is not None:
                _print_points(manifest)
                _print_exits_times(manifest)
                _print_single_file(bundle, manifest, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--recipe", help="take its early_exit stage, not the options below")
    parser.add_argument("--unlabeled")
    parser.add_argument("--exit-data")
    parser.add_argument("--at", type=lambda text: tuple(text.split(",")), default=())
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--joint-steps", type=int, default=3000, help="0: a frozen backbone")
    parser.add_argument("--heads-steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, help="of backbone and heads together")
    parser.add_argument("--heads-rate", type=float)
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    parser.add_argument("--max-drop", type=floats, default=(0.5, 1.0, 2.0), help="of each point")
    parser.add_argument("--max-overhead", type=float, help="of the split; instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path)
    return parser.parse_args()


def _recipes(options: argparse.Namespace) -> dict[str, tuple[Stage, ...]]:
    exits = _from_options(options)
    if options.recipe is not None:
        stages = load_recipe(options.recipe).stages
        exits = next(stage for stage in stages if isinstance(stage, EarlyExitStage))
    if options.max_overhead is not None:
        exits = exits.model_copy(update={"max_overhead": options.max_overhead})
    return {"FP32": (exits,), "INT8": (exits, QuantizeStage(stage="quantize", distill=None))}


def _from_options(options: argparse.Namespace) -> EarlyExitStage:
    common = {"batch_size": options.batch_size, "mixed_precision": options.mixed_precision}
    joint = None
    if options.joint_steps:
        joint = Recovery(
            epochs=1000,
            max_steps=options.joint_steps,
            learning_rate=options.learning_rate,
            feature_weight=0.0,
            **common,
        )
    heads = ExitHeads(
        epochs=1000, max_steps=options.heads_steps, learning_rate=options.heads_rate, **common
    )
    return EarlyExitStage(
        stage="early_exit",
        at=options.at,
        candidates=options.candidates,
        joint=joint,
        heads=heads,
        operating_points=tuple(
            OperatingPoint(name=f"drop-{points:g}", max_drop=points) for points in options.max_drop
        ),
    )


def _compress(
    options: argparse.Namespace, title: str, stages: tuple[Stage, ...], folder: Path
) -> Path:
    recipe = folder / f"{title}.yaml"
    recipe.write_text(recipe_to_yaml(Recipe(name=title, stages=stages, seed=options.seed)), "utf-8")
    return compress(_request(options, recipe, folder / title), Silent()).out


def _request(options: argparse.Namespace, recipe: Path, out: Path) -> CompressRequest:
    given = ("model", "arch", "data", "mean", "std", "unlabeled", "exit_data", "cache")
    return CompressRequest(
        **{name: getattr(options, name) for name in given},
        recipe=str(recipe),
        runtime="onnxruntime",
        single_file=True,
        out=out,
    )


def _print_exits(title: str, manifest: Manifest) -> None:
    facts, accuracy = manifest["early_exits"], manifest["accuracy"]
    original, full = accuracy["original"]["value"], facts["full_accuracy"]
    print(
        f"\n== {title}: original {100 * original:.2f} %, without exits "
        f"{100 * accuracy['compressed']['value']:.2f} % on validation; thresholds chosen on "
        f"{facts['samples']} samples ({facts['chosen_on']}), {100 * full:.2f} % there"
    )
    whole = facts.get("without_exits")
    for entry in facts["candidates"]:
        cost = f", leaving there costs {entry['cost'] / whole:.2f}x" if whole else ""
        kept = "" if entry["name"] in facts.get("kept", ()) else " (not kept)"
        print(
            f"  {entry['name']} behind {entry['after']} ({entry['head']}, layers before it "
            f"{entry['share']:.2f}): {100 * entry['accuracy']:.2f} %{cost}{kept}"
        )
    for message in manifest["failed_checks"]:
        print(f"  failed: {message}")


def _print_points(manifest: Manifest) -> None:
    original = manifest["accuracy"]["original"]["value"]
    print(
        f"\n{'operating point':24}{'top-1':>8}{'below full':>12}{'below original':>16}"
        f"{'mean latency':>24}{'expected':>10}{'off by':>8}  leave at each exit"
    )
    whole = manifest["early_exits"]["without_exits"]
    for name, point in manifest["cascade"]["operating_points"].items():
        found = point["measured"]
        times = found["latency"]
        expected = point.get("expected_cost", manifest["early_exits"]["expected_full"])
        off = expected / times["mean_ms"] - 1
        shares = ", ".join(f"{share:.0%}" for share in found["shares"])
        ratio = f"{times['ratio']:.3f}x ({times['ratio_low']:.3f}-{times['ratio_high']:.3f})"
        print(
            f"{name:24}{100 * found['accuracy']:8.2f}{found['drop_points']:12.2f}"
            f"{100 * (original - found['accuracy']):16.2f}{ratio:>24}{expected / whole:9.3f}x"
            f"{off:+8.1%}  {shares}"
        )


def _print_exits_times(manifest: Manifest) -> None:
    print(f"\n{'operating point':24}{'leaves at':>12}{'calls':>8}{'p50 ms':>9}{'p99 ms':>9}")
    points = manifest["cascade"]["operating_points"]
    for name, point in points.items():
        times = point["measured"]["latency"]
        for index, row in enumerate(times["by_exit"]):
            if row["calls"]:
                p99 = "-" if row["p99_ms"] is None else f"{row['p99_ms']:.3f}"
                print(f"{name:24}{index:12}{row['calls']:8}{row['p50_ms']:9.3f}{p99:>9}")
    times = points["full"]["measured"]["latency"]
    print(
        f"{'model without exits':24}{'':12}{'':8}{times['model_mean_ms']:9.3f}"
        f"{times['model_p99_ms']:9.3f}"
    )


def _print_single_file(bundle: Path, manifest: Manifest, options: argparse.Namespace) -> None:
    """Time the one-file cascade, the segments and the whole model on the same samples."""
    point = manifest["early_exits"]["single_file_point"]
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3  # it warns that thresholds can be given, which is the point
    single = onnxruntime.InferenceSession(
        (bundle / SINGLE).read_bytes(), settings, providers=["CPUExecutionProvider"]
    )
    cascade = load(bundle, operating_point=point, threads=1)
    whole = load(bundle, "compressed", threads=1)
    output = cascade.spec.outputs[0].name
    job = prepare(_request(options, bundle.parent / f"{bundle.name}.yaml", bundle))
    arrays, _ = job.data.inputs(job.data.validation, np.arange(len(job.data.validation)))
    feeds = [{n: a[i : i + 1] for n, a in arrays.items()} for i in range(len(job.data.validation))]
    exits = np.array([int(cascade.run(**feed).exits[0]) for feed in feeds])
    found = np.array([int(single.run(["exit"], feed)[0][0]) for feed in feeds])
    print(f"\none file, {point}: leaves where the segments do in {np.mean(exits == found):.1%}")
    medians = {"one file": 0.0, "segments": 0.0, "without exits": 0.0}
    for index in np.unique(exits):
        chosen = [feed for feed, left in zip(feeds, exits, strict=True) if left == index][:40]
        times = _times(chosen, single, output, cascade, whole)
        share = float(np.mean(exits == index))
        print(f"  leaves at {index} ({share:.0%}): " + _ratios(times))
        for name in medians:
            medians[name] += share * times[name]
    print("  mean: " + _ratios(medians))


def _times(
    feeds: list[dict[str, Any]], single: Any, output: str, cascade: Any, whole: Any
) -> dict[str, float]:
    """Return the median seconds of a call, from single calls that take turns."""
    callers: dict[str, Callable[[dict[str, Any]], object]] = {
        "one file": lambda feed: single.run([output], feed),
        "segments": lambda feed: cascade(**feed),
        "without exits": lambda feed: whole(**feed),
    }
    samples: dict[str, list[float]] = {name: [] for name in callers}
    for feed in feeds:
        steps = {n: (lambda c=c, f=feed: c(f)) for n, c in callers.items()}
        for name, found in time_in_turns(steps, 10).items():  # type: ignore[arg-type]
            samples[name] += found
    return {name: float(np.median(found)) for name, found in samples.items()}


def _ratios(times: Mapping[str, float]) -> str:
    base = times["without exits"]
    return ", ".join(f"{name} {time / base:.3f}x" for name, time in times.items())


if __name__ == "__main__":
    main()
