"""One contender of the GPU benchmark in a process of its own; it is asked line by line.

Written for the interpreter that has the contender: Python 3.8 and numpy, and what it times.
The first line on stdin is the contender as JSON: ``kind`` (``engine``, ``onnxruntime`` or
``torch``), its files and ``device`` (``cuda``; ``cpu`` for a dry run without GPU). Then each line
is ``{"op": "time", "batch": N, "calls": N}`` or ``{"op": "answers", "inputs": NPZ, "out": NPZ}``;
every line is answered by one on stdout.

What is timed is one call on inputs that are on the GPU already, from its start until the GPU is
done: the clock of the host, since that is what a program waits for.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

_ANSWERS = 50  # samples at a time


class Engine:
    """A TensorRT engine, a CUDA graph for each batch."""

    def __init__(self, job):
        from edgekd.engine.binding import open_binding
        from edgekd.runtime.cuda import shared_cuda

        binding = open_binding(job["binding"])
        self._cuda, self.what = shared_cuda(), binding.version
        self._runtime = binding.trt.Runtime(binding.log.own)
        self._engine = self._runtime.deserialize_cuda_engine(Path(job["engine"]).read_bytes())
        if self._engine is None:
            raise SystemExit(binding.log.errors() or "TensorRT does not open the engine")
        self._bound = None

    def prepare(self, inputs):
        """Put inputs on the GPU and record a graph; return what ``call`` runs."""
        if self._bound is not None:
            self._bound.close()  # TensorRT 8 has one context for an engine with free axes
        self._bound = self._bind(inputs)
        self._bound.record_graph()
        return self._bound

    def call(self, ready):
        """Run once and wait."""
        ready.run()
        ready.wait()

    def answers(self, inputs):
        """Return the outputs for one batch."""
        bound = self._bind(inputs)
        bound.run()
        found = list(bound.outputs().values())
        bound.close()
        return found

    def _bind(self, inputs):
        from edgekd.engine.latency import Bound

        return Bound(self._engine, self._cuda, inputs)


class OnnxRuntime:
    """An ONNX model on ONNX Runtime's CUDA provider, inputs and outputs bound on the GPU."""

    def __init__(self, job):
        import onnxruntime as ort

        cuda = job["device"] == "cuda"
        if cuda and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        wanted = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
        if wanted not in ort.get_available_providers():
            raise SystemExit("this onnxruntime has no " + wanted)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._session = ort.InferenceSession(job["onnx"], options, providers=[wanted])
        if self._session.get_providers()[0] != wanted:
            raise SystemExit("onnxruntime fell back to the CPU: CUDA or cuDNN do not fit it")
        self._where = "cuda" if cuda else "cpu"
        self._ort = ort
        self.what = ort.__version__

    def prepare(self, inputs):
        """Bind inputs on the device."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            value = self._ort.OrtValue.ortvalue_from_numpy(array, self._where, 0)
            binding.bind_ortvalue_input(name, value)
        for output in self._session.get_outputs():
            binding.bind_output(output.name, self._where)
        return binding

    def call(self, ready):
        """Run once and wait."""
        self._session.run_with_iobinding(ready)
        ready.synchronize_outputs()

    def answers(self, inputs):
        """Return the outputs for one batch."""
        return self._session.run(None, inputs)


class Torch:
    """A network in FP16 under ``torch.compile``, which records CUDA graphs itself."""

    def __init__(self, job):
        import importlib.util

        import torch

        path, factory = job["arch"].rsplit(":", 1)
        spec = importlib.util.spec_from_file_location("network", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        network = getattr(module, factory)().eval()
        if job.get("weights"):
            from safetensors.torch import load_file

            network.load_state_dict(load_file(job["weights"]))
        self._torch, self._device = torch, job["device"]
        self._cuda = job["device"] == "cuda"
        if self._cuda:
            network = network.half().to("cuda", memory_format=torch.channels_last)
            network = torch.compile(network, mode="max-autotune")
        self._network = network
        self.what = torch.__version__

    def prepare(self, inputs):
        """Put the only input on the device."""
        (array,) = inputs.values()
        tensor = self._torch.from_numpy(array).to(self._device)
        if self._cuda:
            tensor = tensor.half().contiguous(memory_format=self._torch.channels_last)
        return tensor

    def call(self, ready):
        """Run once and wait."""
        with self._torch.inference_mode():
            self._network(ready)
        if self._cuda:
            self._torch.cuda.synchronize()

    def answers(self, inputs):
        """Return the outputs for one batch."""
        with self._torch.inference_mode():
            return [self._network(self.prepare(inputs)).float().cpu().numpy()]


KINDS = {"engine": Engine, "onnxruntime": OnnxRuntime, "torch": Torch}


def main() -> None:
    """Open the contender, then answer until stdin ends."""
    job = json.loads(sys.stdin.readline())
    contender = KINDS[job["kind"]](job)
    _say(what=contender.what)
    size, ready = 0, None
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["op"] == "answers":
            np.savez(ask["out"], output=_all_answers(contender, ask["inputs"]))
            _say(done=True)
            continue
        if ask["batch"] != size:
            size = ask["batch"]
            ready = contender.prepare(_random(job["inputs"], size))
        _say(ms=[_timed(contender, ready) for _ in range(ask["calls"])])


def _timed(contender, ready) -> float:
    start = perf_counter()
    contender.call(ready)
    return 1e3 * (perf_counter() - start)


def _random(shapes, batch):
    """Return the same inputs in every contender; a zero is a number that some kernels like."""
    random = np.random.default_rng(batch)
    return {
        name: random.standard_normal([batch, *shape]).astype(np.float32)
        for name, shape in shapes.items()
    }


def _all_answers(contender, path):
    inputs = dict(np.load(path))
    count = len(next(iter(inputs.values())))
    parts = [
        np.asarray(contender.answers({n: a[i : i + _ANSWERS] for n, a in inputs.items()})[0])
        for i in range(0, count, _ANSWERS)
    ]
    return np.concatenate(parts)


def _say(**answer) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
