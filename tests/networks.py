"""Small networks, and the shortest way from one of them to integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgekd.device import load_profile
from edgekd.export.kernels import KernelReport, read_kernels
from edgekd.export.onnx import export_onnx
from edgekd.graph.canonical import canonicalize
from edgekd.graph.program import clone, output_tensors, refresh, to_module
from edgekd.model.signature import read_spec
from edgekd.model.trace import export_batched
from edgekd.quantize import onnxruntime as ort_rules
from edgekd.quantize import tensorrt as tensorrt_rules
from edgekd.quantize.calibrate import calibrate
from edgekd.quantize.convert import convert
from edgekd.quantize.fake import Quantizer
from edgekd.quantize.layer_bits import formats as weight_formats
from edgekd.quantize.layer_bits import in_float, layer_bits
from edgekd.quantize.placement import Placement, Scheme
from edgekd.quantize.prepare import prepare
from edgekd.recipe import QuantizeStage
from edgekd.spec import ModelSpec
from edgekd.stages.quantize import rules_for

Example = tuple[Tensor, ...]
RULES = {"onnxruntime": ort_rules, "tensorrt": tensorrt_rules}
TARGETS = {"onnxruntime": "cpu", "tensorrt": "jetson"}


def randomize(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms statistics and affine values that are not 1 and 0, and switch to inference."""
    generator = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.3, 2.0, generator=generator)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(layer.bias, 0, 0.3, generator=generator)
    return net.eval()


def build(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Return ``make()`` in inference mode with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return randomize(make(), seed)


def samples(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trace(net: nn.Module, *example: Tensor) -> tuple[fx.GraphModule, ModelSpec]:
    """Export ``net`` for any batch size; return the graph and its signature."""
    program = export_batched(net, example)
    return to_module(program), read_spec(program)


def canonical(net: nn.Module, *example: Tensor) -> fx.GraphModule:
    graph, _ = trace(net, *example)
    canonicalize(graph)
    return refresh(graph, tuple(x[:2] for x in example))


def operations(graph: fx.GraphModule) -> list[str]:
    """Return the short names of the operations in a graph, as ``conv2d``."""
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return [target.split(".")[1] for target in calls if target.startswith("aten.")]


def run_onnx(model: bytes, spec: ModelSpec, *inputs: Tensor, optimise: bool = True) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {t.name: x.numpy() for t, x in zip(spec.inputs, inputs, strict=True)}
    return session.run([t.name for t in spec.outputs], feed)


@dataclass
class Quantized:
    """A network at every step on its way to integers; all outputs are of ``inputs``."""

    spec: ModelSpec
    placement: Placement
    scheme: Scheme
    graph: fx.GraphModule  # canonical, in float
    fake: fx.GraphModule
    quantizers: list[Quantizer]
    converted: fx.GraphModule
    inputs: Example
    exports: dict[int, bytes] = field(default_factory=dict)  # by opset, as they were asked for

    @torch.no_grad()
    def outputs(self, graph: fx.GraphModule) -> list[Tensor]:
        return list(output_tensors(graph(*self.inputs)))

    def onnx(self, opset: int = 17) -> bytes:
        if opset not in self.exports:
            example = tuple(x[:2] for x in self.inputs)
            model = export_onnx(self.converted, example, self.spec, opset=opset)
            self.exports[opset] = model
        return self.exports[opset]

    def kernels(self) -> KernelReport:
        return read_kernels(self.onnx(), self.placement.reasons)


@torch.no_grad()
def quantize(
    net: nn.Module,
    *inputs: Tensor,
    runtime: str = "onnxruntime",
    target: str = "",
    method: Any = "minmax",
    **bits: Any,
) -> Quantized:
    """Take ``net`` through placement, calibration on ``inputs`` and conversion, untrained.

    ``bits`` are keys of the recipe's quantize stage.
    """
    options = QuantizeStage(stage="quantize", **bits)
    rules = RULES[runtime]
    example = tuple(x[:2] for x in inputs)
    traced, spec = trace(net, *example)
    graph = clone(traced)
    canonicalize(graph)
    graph = refresh(graph, example)
    wanted = layer_bits(graph, options, opset=21)
    placement = rules.place(graph, in_float(wanted))
    names = [tensor.node for tensor in placement.tensors]
    _, scheme = rules_for(load_profile(target or TARGETS[runtime]))
    ranges = calibrate(graph, names, lambda: [inputs], scheme, method)
    fake = clone(graph)
    formats = weight_formats(wanted, options.group_size)
    quantizers = prepare(fake, placement, scheme, ranges, formats)
    converted = clone(fake)
    convert(converted, scheme)
    converted = refresh(converted, example)
    return Quantized(spec, placement, scheme, graph, fake, quantizers, converted, inputs)


def cosine(a: Any, b: Any) -> float:
    """Return the cosine of the angle between two arrays, flattened."""
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def nodes_of(model: bytes, *types: str) -> list[onnx.NodeProto]:
    return [node for node in onnx.load_from_string(model).graph.node if node.op_type in types]


def conv_bn(inputs: int, outputs: int, stride: int = 1, groups: int = 1, size: int = 3) -> Any:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Chain(nn.Module):
    """conv-bn-relu twice, max pooling, flatten, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(3, 8), conv_bn(8, 8, stride=2)
        self.hidden, self.head = nn.Linear(8 * 2 * 2, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.b(F.relu(self.a(x)))), 2)
        return self.head(F.relu(self.hidden(torch.flatten(x, 1))))


@torch.no_grad()
def spoiled_chain(inputs: Tensor) -> Chain:
    """Return a Chain that answers ``inputs`` with every class, and whose layer b cannot be int8.

    Each filter of b has weights that are a thousand times the others and multiply zeros only.
    """
    net = build(Chain)
    assert isinstance(net, Chain)
    net.a[1].bias[0] = -50.0  # behind the ReLU this channel is always zero
    net.b[0].weight[:, 0] = 100.0
    for layer in (net.hidden, net.head):
        layer.weight *= 6
    net.head.bias -= net(inputs).mean(0)
    return net


class Block(nn.Module):
    """A residual block; where the shape changes, the shortcut skips pixels and pads channels."""

    def __init__(self, inputs: int, outputs: int, stride: int, before: int, inplace: bool):
        super().__init__()
        self.a, self.b = conv_bn(inputs, outputs, stride), conv_bn(outputs, outputs)
        self.stride, self.before, self.after = stride, before, outputs - inputs - before
        self.act = nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.act(self.a(x)))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.before or self.after:
            x = F.pad(x, (0, 0, 0, 0, self.before, self.after), "constant", 0)
        y += x
        return self.act(y)


class ResNet(nn.Module):
    """Residual blocks with zero-padded shortcuts of stride 1 and 2 and uneven padding."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4)
        self.blocks = nn.Sequential(
            Block(4, 4, 1, 0, inplace), Block(4, 8, 2, 2, inplace), Block(8, 11, 1, 1, inplace)
        )
        self.head = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        return self.head(x.mean((2, 3)))


class Mobile(nn.Module):
    """Inverted residual with ReLU6 and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = conv_bn(3, 8, 2), nn.ReLU6(inplace=True)
        self.expand, self.depth = conv_bn(8, 16, size=1), conv_bn(16, 16, groups=16)
        self.project, self.last = conv_bn(16, 8, size=1), conv_bn(8, 16, size=1)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = x + self.project(self.act(self.depth(self.act(self.expand(x)))))
        x = F.adaptive_avg_pool2d(self.act(self.last(x)), 1)
        return self.head(self.drop(torch.flatten(x, 1)))


class Concat(nn.Module):
    """Two branches side by side, one of them read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 4), conv_bn(4, 4), conv_bn(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = torch.cat([x, F.relu(self.b(x))], 1)
        x = F.relu(self.c(x))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Hardswish(nn.Module):
    """Activations without an integer kernel between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = conv_bn(3, 8), conv_bn(8, 8), nn.Hardswish()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.b(self.act(self.a(x))))
        return self.head(x.mean((2, 3), keepdim=True).flatten(1))


class TwoInputs(nn.Module):
    """Images and a vector of features, summed in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.image = conv_bn(3, 8, 2), nn.Linear(8, 6)
        self.other, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.relu(self.conv(image)), 1).flatten(1)
        return self.head(F.relu(self.image(x) + self.other(features)))


class DenseOutput(nn.Module):
    """A segmentation head: the last layer is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv_bn(3, 8), conv_bn(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Transformer(nn.Module):
    """One block with attention written out, LayerNorm and residual sums."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        y = F.scaled_dot_product_attention(*(z.transpose(1, 2) for z in (q, k, v)))
        x = x + self.out(y.transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.second(x))))
        return self.head(x.mean(1))


class Signal(nn.Module):
    """conv1d over a time series."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv1d(2, 8, 5, 2, 2), nn.BatchNorm1d(8))
        self.b = nn.Sequential(nn.Conv1d(8, 8, 3, 1, 1), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.head(F.relu(self.b(x)).mean(2))


IMAGE = (3, 8, 8)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "chain": (Chain, (IMAGE,)),
    "resnet": (ResNet, (IMAGE,)),
    "mobile": (Mobile, (IMAGE,)),
    "concat": (Concat, (IMAGE,)),
    "hardswish": (Hardswish, (IMAGE,)),
    "two_inputs": (TwoInputs, (IMAGE, (4,))),
    "dense_output": (DenseOutput, (IMAGE,)),
    "mlp": (Mlp, ((16,),)),
    "transformer": (Transformer, ((6, 16),)),
    "signal": (Signal, ((2, 16),)),
}


def network(name: str, batch: int = 16) -> tuple[nn.Module, Example]:
    """Return a network of ``NETWORKS`` and a batch of inputs for it."""
    make, shapes = NETWORKS[name]
    return build(make), tuple(samples(batch, *shape, seed=i) for i, shape in enumerate(shapes))


@cache
def quantized(name: str, runtime: str = "onnxruntime") -> Quantized:
    """Return a network of ``NETWORKS`` quantized; it is shared, so callers do not change it."""
    net, inputs = network(name)
    return quantize(net, *inputs, runtime=runtime)
