"""What an FP16 graph computes, on a CPU.

ONNX Runtime has few FP16 kernels for CPUs. It runs the other operations in FP32 and drops the casts
between them, so that nothing is rounded in between and nothing overflows, as it would on a GPU.
"""

from __future__ import annotations

import onnx
from onnx import NodeProto, TensorProto, helper, shape_inference

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)


def with_rounding(model: bytes) -> bytes:
    """Return a graph in FP32 that rounds to FP16 whatever ``model`` computes in FP16.

    Every operation reads FP32 and its result is cast to FP16 and back, so sums inside of an
    operation are in FP32, as on tensor cores.
    """
    proto = shape_inference.infer_shapes(onnx.load_from_string(model))
    graph = proto.graph
    half = {t.name for t in graph.initializer if t.data_type == HALF}
    half |= {v.name for v in graph.value_info if v.type.tensor_type.elem_type == HALF}
    nodes: list[NodeProto] = []
    wide: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Cast":
            for position, name in enumerate(node.input):
                if name in half and name not in wide:
                    wide[name] = f"{name} as FP32"
                    nodes.append(helper.make_node("Cast", [name], [wide[name]], to=FLOAT))
                node.input[position] = wide.get(name, name)
        casts = []
        for position, name in enumerate(node.output):
            if name in half and node.op_type != "Cast":
                node.output[position] = f"{name} before rounding"
                exact = node.output[position]
                title = f"the rounding of {node.name}"
                casts.append(helper.make_node("Cast", [exact], [name], title, to=HALF))
        nodes += [node, *casts]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return bytes(proto.SerializeToString())
