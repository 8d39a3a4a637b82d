"""How close model_fp16.onnx stays: python -m benchmarks.half_copy --data DATA.npz BUNDLE...

For bundles of image classifiers for TensorRT. Each model runs in ONNX Runtime over all images of
the file, the copy in FP16 with its rounding after every operation. Printed are sizes, and the
share of images that get the class that another model gives them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgekd.export.half_rounding import with_rounding
from edgekd.runtime.bundle import read_manifest
from edgekd.runtime.options import session_options

FILES = {"original": "baseline.onnx", "model": "model.onnx", "copy": "model_fp16.onnx"}
BATCH = 64


def main() -> None:
    """Run the models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--data", required=True, type=Path, help=".npz of uint8 images, x or x_*")
    options = parser.parse_args()
    with np.load(options.data, allow_pickle=False) as stored:
        images = np.concatenate([stored[name] for name in stored.files if name.startswith("x")])
    print(f"{len(images)} images\n")
    pairs = (("copy", "model"), ("model", "original"), ("copy", "original"))
    heads = "".join(f"{' = '.join(pair):>19}" for pair in pairs)
    print(f"{'bundle':16}   model kB   copy kB{heads}")
    for bundle in options.bundles:
        (steps,) = read_manifest(bundle).preprocessing.values()
        sizes = {name: (bundle / file).stat().st_size / 1e3 for name, file in FILES.items()}
        classes = {name: predict(bundle / FILES[name], steps(images)) for name in FILES}
        equal = [100 * float(np.mean(classes[a] == classes[b])) for a, b in pairs]
        shares = "".join(f"{share:17.2f} %" for share in equal)
        print(f"{bundle.name:16}{sizes['model']:11.1f}{sizes['copy']:10.1f}{shares}")


def predict(path: Path, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Return the class of every image."""
    model = path.read_bytes()
    if path.name == FILES["copy"]:
        model = with_rounding(model)
    session = ort.InferenceSession(
        model, session_options("tensorrt"), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    parts = range(0, len(inputs), BATCH)
    logits = [session.run(None, {name: inputs[i : i + BATCH]})[0] for i in parts]
    return np.concatenate(logits).argmax(axis=1)


if __name__ == "__main__":
    main()
