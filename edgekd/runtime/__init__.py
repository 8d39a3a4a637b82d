"""What production imports: read a bundle, prove that it is intact, run its models.

Needs numpy, and onnxruntime or tensorrt by what it opens, and Python 3.8 or later, because it runs
on the devices.

    from edgekd.runtime import load

    model = load("bundle")
    logits = model(model.preprocess(images))
"""

from __future__ import annotations

from edgekd.runtime.cascade import Answer, Cascade
from edgekd.runtime.dlpack import GpuArray
from edgekd.runtime.manifest import Manifest
from edgekd.runtime.session import Model, load

__all__ = ["Answer", "Cascade", "GpuArray", "Manifest", "Model", "load"]
