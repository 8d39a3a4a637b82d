"""The quantize stage: calibrate on real samples, then distil the float original into the grid."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import fx

from edgekd.algorithms.ranges import is_zero
from edgekd.bench.machine import adds_in_16_bits
from edgekd.data.loader import batches
from edgekd.device import DeviceProfile
from edgekd.errors import StageError
from edgekd.graph.canonical import canonicalize
from edgekd.graph.program import clone, refresh
from edgekd.graph.taps import Tap
from edgekd.graph.tensors import constant, layer_name
from edgekd.progress import Progress
from edgekd.quantize import onnxruntime, tensorrt
from edgekd.quantize.bias_correction import correct_biases
from edgekd.quantize.blocks import find_blocks
from edgekd.quantize.calibrate import calibrate
from edgekd.quantize.convert import convert
from edgekd.quantize.equalize import equalize
from edgekd.quantize.layer_bits import formats, in_float, layer_bits, without_float
from edgekd.quantize.partial import Place, QuantizedProgram
from edgekd.quantize.placement import Placement, Scheme
from edgekd.quantize.prepare import prepare
from edgekd.quantize.reconstruct import learn_rounding
from edgekd.quantize.taps import find_taps
from edgekd.recipe import QuantizeStage
from edgekd.sparse.masking import apply_masks, held_zeros, layer_weights, lost_zeros
from edgekd.sparse.patterns import Masks
from edgekd.stages.budget import convert_within_budget
from edgekd.stages.distillation import check_distillation, distill
from edgekd.stages.distillation_loss import unknown_layer
from edgekd.state import CompressionState
from edgekd.training import Inputs, training_device
from edgekd.training_settings import Distill

Rules = tuple[Place, Scheme]
FEWER_BITS = (
    "weights use 7 of their 8 bits: without VNNI, ONNX Runtime adds two products of INT8 in 16 bits"
)


def rules_for(profile: DeviceProfile) -> Rules:
    """Return the placement rules and number formats of a target."""
    match profile.runtime:
        case "onnxruntime":
            bits = 7 if adds_in_16_bits(profile) else 8
            return onnxruntime.place, replace(onnxruntime.SCHEME, weight_bits=bits)
        case "tensorrt":
            return tensorrt.place, tensorrt.SCHEME
    raise StageError(f"no quantization rules for the runtime {profile.runtime!r}")


def requires(state: CompressionState, options: QuantizeStage) -> None:
    """Refuse before any work what this stage cannot do on this model and data."""
    if options.distill is not None:
        check_distillation(state, options.distill, stage="quantize")
    canonical = clone(state.model)
    canonicalize(canonical)
    layer_bits(canonical, options, state.profile.opset)


def describe(options: QuantizeStage) -> str:
    """Say in one line what the stage will do."""
    parts = [
        "channels equalized" if options.equalize else "",
        f"{options.calibration.method} ranges from {options.calibration.samples} samples",
        "learned rounding" if options.rounding == "adaround" else "",
        "biases corrected" if options.bias_correction else "",
        "no training"
        if options.distill is None
        else f"then {options.distill.epochs} epochs of distillation",
        "sensitivity of each layer" if options.sensitivity else "",
    ]
    return ", ".join([_formats(options), *filter(None, parts)])


def _formats(options: QuantizeStage) -> str:
    words = {
        "w8a8": "INT8 weights and activations",
        "w4a8": "4-bit weights, INT8 activations",
        "w4a16": f"4-bit weights in groups of {options.group_size}, float activations",
        "float": "float",
    }[options.bits]
    rules = ", ".join(f"{entry.match} {entry.bits}" for entry in options.layers)
    return f"{words} ({rules})" if rules else words


def run(state: CompressionState, options: QuantizeStage, progress: Progress) -> CompressionState:
    """Return the state with a program of explicit quantize and dequantize steps."""
    place, scheme = rules_for(state.profile)
    float_model = clone(state.model)
    canonicalize(float_model)
    float_model = refresh(float_model, state.example)
    details: dict[str, object] = {}
    if scheme.weight_bits < 8:
        details["weight_bits"] = scheme.weight_bits
        progress.note(FEWER_BITS)
    if options.equalize:
        details["equalized_pairs"] = equalize(float_model)
    bits = layer_bits(float_model, options, state.profile.opset)
    weight_formats = formats(bits, options.group_size)
    placement = place(float_model, in_float(bits))
    if not placement.weights and not weight_formats:
        raise StageError(
            "quantize: the model has no convolution or linear layer with a stored weight"
        )
    _check_weights(float_model, placement)
    ranges = _ranges(state, options, float_model, placement, scheme, progress)
    if dead := [name for name, found in ranges.items() if is_zero(*found)]:
        details["zero_ranges"] = dead
        progress.note(zero_range_note(dead))
    student = clone(float_model)
    quantizers = prepare(student, placement, scheme, ranges, weight_formats)
    if options.rounding == "adaround":
        details["block_errors"] = _round(state, options, float_model, student, progress)
    if options.bias_correction:
        details["corrected_biases"] = _correct(state, options, float_model, student, progress)
    zeros = held_zeros(float_model) if state.keep_zeros else {}
    if options.distill is not None:
        for quantizer in quantizers:
            learnable = options.learn_step_sizes and quantizer.learnable
            quantizer.log_scale.requires_grad_(learnable)
        here = {name: mask.to(training_device()) for name, mask in zeros.items()}
        details |= distill(
            state,
            float_model,
            student,
            options.distill,
            progress,
            title="quantize: distillation",
            taps=_taps(student, float_model, options.distill),
            teacher=None if state.model is state.teacher else _teacher(state),
            after_step=lambda _: apply_masks(student, here),
            batch_statistics=False,  # ranges were taken with the running ones
            exit_weights=[1.0] * len(state.exits),
        )

    def place_chosen(module: fx.GraphModule, returned: Mapping[str, str]) -> Placement:
        return place(module, {**in_float(bits), **returned})

    def insert(module: fx.GraphModule, chosen: Placement) -> object:
        kept = without_float(weight_formats, chosen.reasons)
        return prepare(module, chosen, scheme, ranges, kept)

    weight_only = frozenset(name for name, format in weight_formats.items() if format.group_size)
    program = QuantizedProgram(float_model, student, place_chosen, insert, weight_only)

    def to_integers(module: fx.GraphModule) -> fx.GraphModule:
        convert(module, scheme)
        return refresh(module, state.example)

    model, found = convert_within_budget(state, program, options, to_integers, progress)
    if zeros:
        found["held_zeros"] = _held(model, zeros)
    return state.with_model(model, **details, **found)


def _held(model: fx.GraphModule, zeros: Masks) -> dict[str, int]:
    """Return how many zeros were to be held, and how many there are now in the same weights."""
    if lost := lost_zeros(model, zeros):
        raise StageError(f"quantize: zeros were lost in {', '.join(lost[:3])}: a defect of edgekd")
    weights = dict(layer_weights(model))
    return {
        "planned": sum(int((~mask).sum()) for mask in zeros.values()),
        "found": sum(int((weights[name] == 0).sum()) for name in zeros),
        "weights": sum(mask.numel() for mask in zeros.values()),
    }


def _taps(student: fx.GraphModule, original: fx.GraphModule, options: Distill) -> list[Tap]:
    """Return where features are compared; raises StageError for a layer that is not there."""
    with unknown_layer("quantize"):
        return find_taps(student, original, options.feature_layers)


def _teacher(state: CompressionState) -> fx.GraphModule:
    teacher = clone(state.teacher)
    canonicalize(teacher)
    return teacher


def zero_range_note(names: Sequence[str]) -> str:
    """Say what was done about tensors that are zero for every calibration sample."""
    some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"the range of {some} is zero on the calibration samples, so that its step is 1: other "
        "data will not be represented there; check that the samples are real and the layer is alive"
    )


def _check_weights(module: fx.GraphModule, placement: Placement) -> None:
    """Raise StageError for NaN or infinity in a weight or bias that is to become integers."""
    for node in module.graph.nodes:
        if node.name not in placement.weights:
            continue
        for stored in node.args[1:3]:
            tensor = constant(module, stored)
            if tensor is not None and not bool(tensor.isfinite().all()):
                raise StageError(
                    f"quantize: {layer_name(node)} has NaN or infinity in its weight or bias; "
                    "check the training"
                )


def _ranges(
    state: CompressionState,
    options: QuantizeStage,
    model: fx.GraphModule,
    placement: Placement,
    scheme: Scheme,
    progress: Progress,
) -> dict[str, tuple[float, float]]:
    names = [tensor.node for tensor in placement.tensors]
    if not names:
        return {}
    passes = 1 if options.calibration.method == "minmax" else 2
    with _calibration(state, options, "calibration", passes, progress) as samples:
        ranges = calibrate(model, names, samples, scheme, options.calibration.method)
    known = state.data.input_ranges
    return ranges | {name: known[name] for name in ranges.keys() & known.keys()}


def _correct(
    state: CompressionState,
    options: QuantizeStage,
    original: fx.GraphModule,
    student: fx.GraphModule,
    progress: Progress,
) -> int:
    with _calibration(state, options, "bias correction", 1, progress) as samples:
        return correct_biases(original, student, samples)


def _round(
    state: CompressionState,
    options: QuantizeStage,
    original: fx.GraphModule,
    student: fx.GraphModule,
    progress: Progress,
) -> list[tuple[float, float]]:
    order = np.random.default_rng(state.seed)
    with _calibration(state, options, "reading samples", 1, progress, size=32) as samples:
        inputs = list(samples())
    steps = options.rounding_steps
    with progress.task("quantize: rounding", steps * len(find_blocks(student))) as advance:
        return learn_rounding(original, student, inputs, steps, order, advance)


@contextlib.contextmanager
def _calibration(
    state: CompressionState,
    options: QuantizeStage,
    title: str,
    passes: int,
    progress: Progress,
    size: int = 64,
) -> Iterator[Callable[[], Iterator[Inputs]]]:
    """Give a function that starts a pass over the calibration samples, with a progress bar."""
    limit = options.calibration.samples
    steps = -(-min(limit, len(state.data.calibration)) // size) * passes

    def one_pass() -> Iterator[Inputs]:
        found = batches(state.data, state.data.calibration, state.spec, size, limit=limit)
        for inputs, _ in found:
            yield inputs
            advance(1)

    with progress.task(f"quantize: {title}", steps) as advance:
        yield one_pass
