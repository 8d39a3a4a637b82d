"""What ``build.json`` says: which file each version of TensorRT builds its engine from, and how.

Everything is read from the manifest, so that a bundle without a ``build.json`` can be built too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from edgekd.engine.plan import FORMAT_VERSION, BuildPlan
from edgekd.errors import BundleError
from edgekd.runtime.engine_manifest import ShapeRange
from edgekd.spec import ModelSpec

MAX_BATCH = 8  # samples of the largest batch, where nobody says otherwise
HALF_NAME = "model_fp16.onnx"
NEWEST_OF_8 = 17  # ONNX opset that TensorRT 8.5 and 8.6 read (docs/operators.md of onnx-tensorrt)
NEWEST_OF_8_4 = 13  # and TensorRT 8.0 to 8.4
STRONGLY_TYPED = "10.0"  # from here on edgekd builds strongly typed networks
_MEMORY_SHARE = 4  # the builder's workspace is this part of the memory: a Jetson's CPU shares it
_NORMALISATION = frozenset(("ReduceMean", "Pow", "Sqrt"))  # a LayerNorm in simple operations


def build_file(manifest: Mapping[str, Any], *, max_batch: int = MAX_BATCH) -> dict[str, Any]:
    """Return the content of ``build.json`` for a bundle, given the data of its manifest.

    TensorRT 8 and 9 build a weakly typed network and choose FP16 and INT8 themselves where they are
    allowed. From 10 on the network is strongly typed: the types are those of the ONNX file, which
    is the manifest's ``float16_model`` where there is one.

    Raises BundleError where the target is not TensorRT's, or an axis besides the batch is open.
    """
    target = manifest["target"]
    if target["runtime"] != "tensorrt":
        raise BundleError(
            f"the bundle is for {target['runtime']}: compress again with a target for TensorRT"
        )
    operations = manifest["kernels"]["operations"]
    shared: dict[str, Any] = {
        "shapes": batch_shapes(ModelSpec.from_dict(manifest["spec"]), max_batch),
        "sparse": _is_sparse(manifest),
        "workspace_bytes": _workspace(target.get("memory_gib")),
    }
    variants = []
    if target["opset"] <= NEWEST_OF_8:
        weakly_typed = BuildPlan(
            manifest["models"]["compressed"],
            float16=not set(operations) >= _NORMALISATION,  # squares can overflow there
            int8="QuantizeLinear" in operations,
            **shared,
        )
        oldest = "8.0" if target["opset"] <= NEWEST_OF_8_4 else "8.5"
        variants.append(_variant(oldest, STRONGLY_TYPED, weakly_typed))
    if runs_strongly_typed(target):
        half = (manifest.get("float16_model") or {}).get("file")
        typed = BuildPlan(half or manifest["models"]["compressed"], **shared)
        variants.append(_variant(STRONGLY_TYPED, None, typed))
    return {"format_version": FORMAT_VERSION, "variants": variants}


def to_json(data: Mapping[str, Any]) -> bytes:
    """Return the bytes of ``build.json``."""
    return (json.dumps(data, indent=2) + "\n").encode("utf-8")


def runs_strongly_typed(target: Mapping[str, Any]) -> bool:
    """Tell whether TensorRT 10 or newer runs on a target, given its profile as plain data.

    A list of its software says so. Without one: TensorRT 10 began with compute capability 7.0
    (NVIDIA TensorRT 10.0 support matrix, "Hardware and Precision"), and reads every opset.
    """
    if target.get("software"):
        return any(_major(stack["tensorrt"]) >= 10 for stack in target["software"])
    capability = target.get("compute_capability")
    return target["opset"] > NEWEST_OF_8 or capability is None or float(capability) >= 7


def batch_shapes(spec: ModelSpec, max_batch: int) -> dict[str, ShapeRange]:
    """Return the shapes to build for: batches of 1 to ``max_batch``, fastest at 1.

    Inputs whose batch is fixed keep it. Raises BundleError where another axis is open.
    """
    shapes = {}
    for tensor in spec.inputs:
        if None in tensor.shape[1:]:
            raise BundleError(
                f"an axis besides the batch is open in {tensor}: compress a model with fixed sizes"
            )
        one, most = (
            tuple(batch if size is None else size for size in tensor.shape)
            for batch in (1, max_batch)
        )
        shapes[tensor.name] = ShapeRange(one, one, most)
    return shapes


def _variant(oldest: str, below: str | None, plan: BuildPlan) -> dict[str, Any]:
    return {"from": oldest, "below": below, "plan": plan.to_dict()}


def _major(version: str) -> int:
    return int(re.split(r"\D", version, maxsplit=1)[0])


def _workspace(memory_gib: float | None) -> int | None:
    return None if memory_gib is None else int(memory_gib * 2**30) // _MEMORY_SHARE


def _is_sparse(manifest: Mapping[str, Any]) -> bool:
    """Tell whether a stage made zeros in a pattern that the target runs faster."""
    found = [stage.get("details", {}).get("sparsity", {}) for stage in manifest["stages"]]
    return any(facts.get("faster") and facts.get("layers") for facts in found)
