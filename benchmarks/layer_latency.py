"""How well single layers foretell a whole network: python -m benchmarks.layer_latency MODEL ...

On ONNX Runtime, with the threads of the cpu profile. First what a convolution of the network's own
kind costs at every width, at each of its resolutions, in float and in integers. Then random
narrower versions of the network (widths in multiples of ``--multiple``, some residual blocks left
out): the latency relative to the original's, predicted from single layers and measured whole, each
version in a duet with the original; and the share of versions within 10 %, the measure of nn-Meter
(Zhang et al., MobiSys 2021).
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx

from benchmarks.jobs import add_model_options, open_job
from edgekd.bench import Protocol, measure
from edgekd.bench.layers import LayerShape, time_layers
from edgekd.export.onnx import export_onnx
from edgekd.graph.float_form import float_form
from edgekd.graph.program import to_module
from edgekd.prune.analysis import Analysis, analyse
from edgekd.prune.cost import CostModel
from edgekd.prune.layer_table import LayerTable
from edgekd.prune.residual import ResidualBlock, bypass, residual_blocks
from edgekd.prune.surgery import remove
from edgekd.spec import ModelSpec

WIDTHS = (8, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Network:
    """A network in float form, with what can be taken out of it."""

    module: fx.GraphModule
    analysis: Analysis
    blocks: list[ResidualBlock]
    example: tuple[Tensor, ...]
    spec: ModelSpec
    opset: int

    def write(self, module: fx.GraphModule, path: Path) -> Path:
        """Export a version of the network."""
        path.write_bytes(export_onnx(module, self.example, self.spec, opset=self.opset))
        return path

    def smaller(self, kept: dict[str, int], dropped: list[str]) -> fx.GraphModule:
        """Return the network with the first units of every group, and without some blocks."""
        groups = self.analysis.dependencies.groups
        gone = {group.name: range(kept[group.name], group.size) for group in groups}
        module = remove(self.module, self.analysis, gone, self.example).module
        left_out = [block for block in residual_blocks(module) if block.name in dropped]
        return bypass(module, left_out, self.example)


def main() -> None:
    """Time layers, then whole networks."""
    options = arguments()
    job = open_job(options)
    module = float_form(to_module(job.loaded.program), job.loaded.example)
    network = Network(
        module,
        analyse(module, job.loaded.example),
        residual_blocks(module),
        job.loaded.example,
        job.loaded.spec,
        job.profile.opset,
    )
    with tempfile.TemporaryDirectory() as folder:
        table = LayerTable(options.layers or Path(folder) / "layers", job.profile.threads)
        print_widths(network, table)
        print_versions(network, table, options, Path(folder))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--layers", type=Path, help="folder that keeps the layers' times")
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--multiple", type=int, default=8)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def print_widths(network: Network, table: LayerTable) -> None:
    """Print the microseconds of each kind of plain convolution for all widths."""
    costs = CostModel(network.module, network.analysis.dependencies, network.example, table)
    plain = [
        replace(layer.shape, inputs=1, outputs=1)
        for layer in costs.layers
        if layer.shape.op == "conv"
        and layer.shape.groups == 1
        and layer.shape.inputs >= min(WIDTHS)
        and set(layer.shape.stride) == {1}
    ]
    for kind in dict.fromkeys(plain):
        shapes = [at(kind, inputs, outputs) for inputs in WIDTHS for outputs in WIDTHS]
        integers = time_layers(shapes, integer_layers, table.threads)
        title = f"{kind.kernel} convolution at {kind.size}, {plain.count(kind)} layers"
        print_matrix(f"{title}, float32, us", table.times(shapes))
        print_matrix(f"{title}, INT8 and a sum, us", dict(zip(shapes, integers, strict=True)))


def print_matrix(title: str, times: Mapping[LayerShape, float]) -> None:
    """Print one row for every number of inputs."""
    kind = next(iter(times))
    print(f"{title}\n  in\\out" + "".join(f"{width:8}" for width in WIDTHS))
    for inputs in WIDTHS:
        row = "".join(f"{times[at(kind, inputs, outputs)]:8.1f}" for outputs in WIDTHS)
        print(f"{inputs:8}{row}")


def integer_layers(shape: LayerShape, copies: int) -> bytes:
    """Return an ONNX model of equal INT8 convolutions and the sums of their outputs."""
    weights = [
        numpy_helper.from_array(np.float32(0.05), "scale"),
        numpy_helper.from_array(np.uint8(0), "zero"),
        numpy_helper.from_array(np.full(shape.outputs, 0.01, np.float32), "scales"),
        numpy_helper.from_array(np.zeros(shape.outputs, np.int8), "zeros"),
    ]
    grid = ["scale", "zero"]
    nodes = [helper.make_node("QuantizeLinear", ["x", *grid], ["q"])]
    random_weights = np.random.default_rng(0)
    for index in range(copies):
        values = random_weights.integers(
            -127, 128, (shape.outputs, shape.inputs, *shape.kernel), np.int8
        )
        weights.append(numpy_helper.from_array(values, f"w{index}"))
        reads = ["q", *grid, f"w{index}", "scales", "zeros", *grid]
        pads = [*shape.padding, *shape.padding]
        nodes.append(helper.make_node("QLinearConv", reads, [f"c{index}"], pads=pads))
        before = f"s{index - 1}" if index else "c0"
        reads = [before, *grid, f"c{index}", *grid, *grid]
        nodes.append(helper.make_node("QLinearAdd", reads, [f"s{index}"], domain="com.microsoft"))
    nodes.append(helper.make_node("DequantizeLinear", [f"s{copies - 1}", *grid], ["y"]))
    ends = {"x": (shape.inputs, *shape.size), "y": (shape.outputs, *shape.output_size)}
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *sizes])
        for name, sizes in ends.items()
    )
    graph = helper.make_graph(nodes, "layers", [x], [y], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def at(kind: LayerShape, inputs: int, outputs: int) -> LayerShape:
    """Return the layer with other widths."""
    return replace(kind, inputs=inputs, outputs=outputs)


def print_versions(
    network: Network, table: LayerTable, options: argparse.Namespace, folder: Path
) -> None:
    """Print predicted and measured latency of random narrower versions."""
    groups = network.analysis.dependencies.groups
    chosen = random.Random(options.seed)
    errors = []
    original = network.write(network.module, folder / "original.onnx")
    protocol = Protocol(processes=options.processes, rounds=options.rounds)
    print("\nwidths / blocks left out: measured us, share of the original measured and predicted")
    for number in range(options.versions):
        kept = {group.name: width(chosen, group.size, options.multiple) for group in groups}
        dropped = [block for block in network.blocks if chosen.random() < 0.25]
        names = [block.name for block in dropped]
        small = network.write(network.smaller(kept, names), folder / f"{number}.onnx")
        report = measure(
            {"original": original, "small": small}, baseline="original", protocol=protocol
        )
        whole_us = report.models["original"].median_ms * 1e3
        share = 1 / (report.models["small"].ratio or 1.0)
        costs = CostModel(
            network.module,
            network.analysis.dependencies,
            network.example,
            table,
            measured_us=whole_us,
        )
        nodes = frozenset(name for block in dropped for name in (*block.nodes, block.add))
        predicted = costs.microseconds(kept, nodes) / whole_us
        errors.append(predicted / share - 1)
        widths = ",".join(str(count) for count in kept.values())
        print(
            f"{widths} / {','.join(names) or '-'}: {share * whole_us:.0f}"
            f"  {share:.3f}  {predicted:.3f}  {errors[-1]:+.1%}"
        )
    within = sum(abs(error) <= 0.1 for error in errors) / len(errors)
    typical = sorted(map(abs, errors))[len(errors) // 2]
    print(f"within 10 %: {within:.0%} of {len(errors)}; median error {typical:.1%}")


def width(chosen: random.Random, size: int, multiple: int) -> int:
    """Return a random multiple up to ``size``; all where there is none."""
    return chosen.choice(range(multiple, size + 1, multiple)) if size >= multiple else size


if __name__ == "__main__":
    main()
