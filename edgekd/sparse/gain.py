"""What a target gains from a pattern of zeros, said before any work is done for it."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.device import DeviceProfile
from edgekd.sparse.layers import Choice
from edgekd.sparse.patterns import Pattern, fulfils

# Small products do not pay back what it costs to skip zeros. The limit is a rule of thumb: no
# document gives one. (NVIDIA's own figure for whole networks on an A100 is up to 20 %:
# "Accelerating Inference with Sparsity Using the NVIDIA Ampere Architecture and TensorRT", 2021.)
WIDE = 256


@dataclass(frozen=True)
class Gain:
    """Whether the target's runtime runs the pattern ``faster``, and what that means here."""

    faster: bool
    text: str


def expected_gain(profile: DeviceProfile, pattern: Pattern, choice: Choice | None = None) -> Gain:
    """Return what ``profile`` gains from ``pattern`` in the layers of ``choice``, if given."""
    smaller = "nothing but a smaller compressed file"
    if not any(fulfils(pattern, known) for known in profile.sparse_patterns):
        known = ", ".join(profile.sparse_patterns)
        only = f" (it runs {known} faster)" if known else ""
        return Gain(
            faster=False,
            text=f"{profile.title} runs dense kernels for {pattern}{only}: {smaller}",
        )
    text = (
        f"{profile.title} has sparse kernels for {pattern} if the engine is "
        f"built with --sparsity=enable, and gains mostly in layers of {WIDE} channels and more"
    )
    if choice is None:
        return Gain(faster=True, text=text)
    wide = [layer for layer in choice.layers if min(layer.outputs, layer.inputs) >= WIDE]
    share = 100 * sum(layer.macs for layer in wide) / max(1, choice.macs)
    hardly = "" if wide else f"; expect hardly more than {smaller.removeprefix('nothing but ')}"
    return Gain(
        faster=True,
        text=f"{text}: {len(wide)} of this model's {len(choice.layers)} layers with zeros, "
        f"{share:.1f} % of its multiplications{hardly}",
    )
