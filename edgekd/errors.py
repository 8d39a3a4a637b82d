"""Everything that a user of edgekd can do wrong, as one small tree.

EdgekdError
├── MissingExtraError   a command needs packages that a light install leaves out
├── ModelError          the model file cannot be read, built, exported or trusted
├── DataError           the data cannot be read or does not fit the model
├── RecipeError         the recipe is not valid, or not for this device
├── ProfileError        the device profile is unknown or not valid
├── StageError          a stage cannot run on this model
├── ExportError         the model cannot be written as ONNX, or the ONNX is not valid
├── BundleError         a bundle is incomplete, altered or of another format version
│   └── TrustError      nothing proves who wrote it: signature or key is missing or wrong
└── MeasurementError    latency cannot be measured
    └── NoVerdictError  it was measured, but nothing can be concluded from it

A message is one line: what is wrong, then what to do about it. The command line turns each of
these into exit code 2 (NoVerdictError into 3) without a traceback; anything else that escapes is
a defect of edgekd.
"""

from __future__ import annotations


class EdgekdError(Exception):
    """Base of every error that edgekd raises on purpose."""


class MissingExtraError(EdgekdError):
    """A package that is not part of the light install is needed."""


class ModelError(EdgekdError):
    """The model file cannot be read, built, exported or trusted."""


class DataError(EdgekdError):
    """The data cannot be read or does not fit the model."""


class RecipeError(EdgekdError):
    """The recipe is not valid, or asks for what the device cannot do."""


class ProfileError(EdgekdError):
    """The device profile is unknown or not valid."""


class StageError(EdgekdError):
    """A stage cannot run on this model."""


class ExportError(EdgekdError):
    """The model cannot be written as ONNX, or what was written is not valid."""


class BundleError(EdgekdError):
    """A bundle is incomplete, altered or of a format that this version cannot read."""


class TrustError(BundleError):
    """Who wrote a bundle is not proved, or a key is of no use for proving or signing it."""


class MeasurementError(EdgekdError):
    """Latency cannot be measured."""


class NoVerdictError(MeasurementError):
    """Measurements cannot be compared or trusted: other inputs, devices, protocols; throttling."""
