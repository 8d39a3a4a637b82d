"""The form of a program whose float weights are to change: pruned, made sparse and trained."""

from __future__ import annotations

from torch import Tensor, fx

from edgekd.graph.attention import decompose_attention
from edgekd.graph.canonical import (
    make_functional,
    remove_identities,
    replace_padded_shortcuts,
    resolve_padding,
    spell_out_alpha,
)
from edgekd.graph.program import clone, refresh


def float_form(module: fx.GraphModule, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """Return a copy of ``module`` with the same outputs, written so that units can be followed.

    Norms stay norms, since the student goes on training. Padded shortcuts become selection
    kernels and attention becomes two products, so that both can be cut like any layer.
    """
    result = clone(module)
    make_functional(result)
    spell_out_alpha(result)
    remove_identities(result)
    resolve_padding(result)
    replace_padded_shortcuts(result)
    decompose_attention(result)
    return refresh(result, example)
