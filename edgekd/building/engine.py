"""``edgekd build``: an engine for a bundle, built and checked in a fresh process, put into it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekd.bench.place import Place
from edgekd.bench.runner import Here
from edgekd.building.plan import build_file
from edgekd.building.process import CACHE, ENGINE, LAYERS, ask, make_job
from edgekd.building.reference import reference_answers
from edgekd.building.wishes import Wishes
from edgekd.engine.plan import PLAN_NAME, BuildPlan
from edgekd.errors import BundleError
from edgekd.export.bundle import check_destination, write_bundle
from edgekd.progress import Progress, Silent
from edgekd.runtime.bundle import read_files
from edgekd.runtime.cuda import why_no_gpu
from edgekd.runtime.fields import SIGNATURE_NAME
from edgekd.runtime.manifest import Manifest
from edgekd.runtime.onnx_file import check_onnx
from edgekd.runtime.trust import Trust, read_trusted_manifest

TIMEOUT_S = 3600.0  # building tries kernels: minutes on a Jetson, more for large networks
_FILES = {ENGINE: "file", CACHE: "timing_cache", LAYERS: "layers_file"}  # kind -> key of the entry
_ENDINGS = {ENGINE: ".engine", CACHE: ".timing_cache", LAYERS: ".layers.json"}
_SAME = ("model", "binding", "version", "compute_capabilities", "platform")

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Building:
    """What came out: the manifest's entry, and the bundle it was put into.

    ``bundle`` is None where the engine does not answer as its ONNX model does: it was not kept.
    """

    entry: Entry
    bundle: Path | None
    notes: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Tell whether the engine was kept: verified, or nothing here can run it."""
        return self.bundle is not None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "bundle": None if self.bundle is None else str(self.bundle),
            "passed": self.passed,
            "engine": dict(self.entry),
            "notes": list(self.notes),
        }


def build_engine(
    bundle: Path,
    *,
    wishes: Wishes | None = None,
    data: str | None = None,
    binding: str | None = None,
    out: Path | None = None,
    place: Place | None = None,
    timeout_s: float = TIMEOUT_S,
    external_tactics: bool = True,
    progress: Progress | None = None,
    trust: Trust | None = None,
) -> Building:
    """Build an engine from a bundle's plan and put it, and what was found out, into the bundle.

    The process that builds runs in ``place``, by default here. ``binding`` is ``tensorrt`` or
    ``tensorrt_rtx``, None for what is there. Where the GPU is that the engine is for, its answers
    are compared with those of the ONNX model on the validation part of ``data``, without data on
    random numbers, its layers are read, and it is timed. ``out`` takes the bundle with the engine;
    None replaces ``bundle`` itself, all at once. An engine of the same TensorRT and GPU is
    replaced, and its timing cache used. Without ``external_tactics`` kernels of cuBLAS and cuDNN
    are not tried, for machines without these libraries. ``trust`` is that of ``load``. Everything
    else stays byte by byte; only a signature goes, since it was for another manifest.

    Raises BundleError where the bundle is not TensorRT's or is damaged, TensorRT or the GPU is
    missing, or no engine comes out; DataError for data that does not fit; MeasurementError where
    ``place`` cannot be used. The bundle is then as it was.
    """
    progress = progress or Silent()
    manifest = read_trusted_manifest(bundle, trust)
    check_destination(out or bundle, overwrite=out is None)
    content = read_files(bundle, manifest, manifest.files)
    build = _plans(manifest, content, wishes or Wishes())
    plans = [BuildPlan.from_dict(variant["plan"]) for variant in build["variants"]]
    for plan in plans:  # a copy in FP16 is none of the manifest's models
        check_onnx(content[plan.onnx], plan.onnx)
    reference = None
    if place is not None or why_no_gpu() is None:
        reference = reference_answers(bundle, manifest, plans[0].model, data, progress, trust)
    with tempfile.TemporaryDirectory(prefix="edgekd-build-") as name:
        where = place or Here(Path(name))
        job = make_job(
            manifest,
            build,
            {plan.onnx: content[plan.onnx] for plan in plans},
            timing_cache=_last_cache(manifest, content),
            reference=reference,
            binding=binding,
            external_tactics=external_tactics,
            folder=Path(name),
            place=where,
        )
        with progress.task("Building the engine", 1) as advance:
            answer = ask(where, job, timeout_s)
            advance(1)
        kinds = [ENGINE, CACHE, *([LAYERS] if answer["layers"] is not None else [])]
        files = {kind: where.fetch(kind) for kind in kinds}
    built = {kind: data for kind, data in files.items() if data}
    unused = data is not None and answer["verification"] is None
    notes = (f"{data} was not used",) if unused else ()
    return _put(bundle, out, manifest, content, answer, built, notes)


def _plans(manifest: Manifest, content: Mapping[str, bytes], wishes: Wishes) -> dict[str, Any]:
    """Return the bundle's build.json with the wishes in it; an older bundle gets one made."""
    if manifest.target["runtime"] != "tensorrt":
        raise BundleError(
            f"the bundle is for {manifest.target['name']}, which has no TensorRT: compress for a "
            "target that has it (edgekd targets)"
        )
    if PLAN_NAME in content:
        try:
            build = json.loads(content[PLAN_NAME])
            variants = [(variant, variant["plan"]) for variant in build["variants"]]
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{PLAN_NAME} is not a plan of edgekd: {error}") from error
    else:
        build = build_file(manifest.data)
        variants = [(variant, variant["plan"]) for variant in build["variants"]]
    changed = []
    for variant, given in variants:
        plan = wishes.apply(BuildPlan.from_dict(given), manifest.spec)
        if plan.onnx not in content or plan.model not in manifest.models:
            raise BundleError(f"{PLAN_NAME} names {plan.onnx} of {plan.model}: not in the bundle")
        changed.append({**variant, "plan": plan.to_dict()})
    if not changed:
        raise BundleError(f"{PLAN_NAME} has no plan: compress again")
    return {**build, "variants": changed}


def _last_cache(manifest: Manifest, content: Mapping[str, bytes]) -> bytes | None:
    """Return the newest timing cache; TensorRT itself drops what is not of its version and GPU."""
    names = [str(entry.get(_FILES[CACHE])) for entry in _entries(manifest)]
    return next((content[name] for name in reversed(names) if name in content), None)


def _put(
    bundle: Path,
    out: Path | None,
    manifest: Manifest,
    content: Mapping[str, bytes],
    answer: Mapping[str, Any],
    built: Mapping[str, bytes],
    more_notes: Sequence[str],
) -> Building:
    """Write the bundle with the engine in it, unless the engine is wrong."""
    own, verified = answer["engine"], answer["verification"]
    facts = {key: answer[key] for key in ("gpu", "build", "layers", "verification", "latency")}
    facts |= {"not_run": answer["not_run"], "created": _now()}
    notes = [f"built, not run: {answer['not_run']}"] if answer["not_run"] else []
    notes += more_notes
    if verified is not None and not verified["passed"]:
        return Building({"file": None, **own, **facts}, None, tuple(notes))
    kept = [e for e in _entries(manifest) if any(e[key] != own[key] for key in _SAME)]
    gone = _files(_entries(manifest)) - _files(kept)
    files: dict[str, bytes | Path] = {n: data for n, data in content.items() if n not in gone}
    stem = _free_stem(own, files)
    entry = {key: f"{stem}{_ENDINGS[k]}" if k in built else None for k, key in _FILES.items()}
    files |= {f"{stem}{_ENDINGS[kind]}": data for kind, data in built.items()}
    if out is None and (bundle / SIGNATURE_NAME).exists():
        notes.append(f"{SIGNATURE_NAME} was for the manifest as it was and is gone: sign it again")
    entry = {**entry, **own, **facts}
    rewritten = {**manifest.data, "engines": [*kept, entry]}
    target = write_bundle(out or bundle, files, rewritten, overwrite=out is None)
    return Building(entry, target, tuple(notes))


def _entries(manifest: Manifest) -> Sequence[Entry]:
    return manifest.data.get("engines") or []


def _files(entries: Sequence[Entry]) -> set[str]:
    return {entry[key] for entry in entries for key in _FILES.values() if entry.get(key)}


def _free_stem(own: Entry, files: Mapping[str, Any]) -> str:
    """Return what the new files are called without their ending: ``model`` unless that is taken."""
    gpus = "-".join(gpu.replace(".", "") for gpu in own["compute_capabilities"])
    longer = f"model.{own['binding']}-{own['version']}-sm{gpus}"
    stems = ["model", longer, *(f"{longer}-{number}" for number in range(2, len(files) + 3))]
    return next(stem for stem in stems if not any(stem + e in files for e in _ENDINGS.values()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
