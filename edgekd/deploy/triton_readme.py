"""The note beside a model of Triton: what it is, what goes in, how to start the server."""

from __future__ import annotations

from edgekd.deploy.choice import Choice
from edgekd.deploy.notes import bullets, plain, preprocessing_text, tensor_lines
from edgekd.deploy.triton_config import Serving
from edgekd.runtime.manifest import Manifest

_TEXT = """# {title}

Written by `edgekd deploy triton` from the bundle `{bundle}`: its file `{file}`, unchanged, on
Triton's backend `{backend}`. Start the server with the folder above this one:

    tritonserver --model-repository=REPOSITORY

{notes}## Inputs and outputs

{tensors}

{batching}

## Before the model

{preprocessing}
"""


def readme_of(
    title: str, manifest: Manifest, choice: Choice, serving: Serving, notes: tuple[str, ...]
) -> str:
    """Return the text of ``README.md``."""
    return _TEXT.format(
        title=title,
        bundle=plain(manifest.name),
        file=choice.file,
        backend=choice.backend,
        notes=bullets(notes),
        tensors=tensor_lines(manifest.spec),
        batching=_batching(serving),
        preprocessing=preprocessing_text(manifest),
    )


def _batching(serving: Serving) -> str:
    if serving.max_batch:
        return f"N is the batch: up to {serving.max_batch} samples in one request."
    return (
        "Triton does not batch (`max_batch_size: 0`): a request has all axes. A server that "
        "completes configurations may set a batch size of its own; start it with "
        "`--disable-auto-complete-config`."
    )
