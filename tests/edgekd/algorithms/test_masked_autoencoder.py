import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.masked_autoencoder import (
    PatchDecoder,
    alignment_loss,
    reconstruction_loss,
)
from edgekd.algorithms.token_mask import random_mask, visible_tokens


def test_a_reconstruction_worked_out_by_hand() -> None:
    prediction, target = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 3.0], [9.0, 9.0], [2.0, 2.0]]])
    masked = torch.tensor([[True, False, True]])
    found = reconstruction_loss(prediction, target, masked)
    assert found.item() == pytest.approx(((1 + 9) / 2 + 4) / 2)


def test_visible_patches_do_not_count() -> None:
    masked = torch.tensor([[True, False]])
    prediction, target = samples(1, 2, 3), samples(1, 2, 3, seed=1)
    plain = reconstruction_loss(prediction, target, masked).item()
    prediction[:, 1] = 1e6
    assert reconstruction_loss(prediction, target, masked).item() == plain
    assert reconstruction_loss(prediction, target, torch.zeros_like(masked)).item() == 0


@given(st.floats(1e-2, 1e2), st.floats(1e-2, 1e2))
def test_a_tokens_length_does_not_count(a: float, b: float) -> None:
    student, teacher = samples(2, 3, 8).double(), samples(2, 3, 8, seed=1).double()
    plain = alignment_loss(student, teacher).item()
    assert alignment_loss(a * student, b * teacher).item() == pytest.approx(plain)
    assert alignment_loss(a * teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    assert alignment_loss(-a * teacher, teacher).item() <= 2 / math.sqrt(8) + 1e-9


def test_its_size_for_random_directions() -> None:
    found = alignment_loss(samples(4, 100, 256), samples(4, 100, 256, seed=1)).item()
    assert found * math.sqrt(256) == pytest.approx(2 / math.sqrt(math.pi), rel=0.02)


def test_an_alignment_worked_out_by_hand() -> None:
    student, teacher = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 2.0]]])
    assert alignment_loss(student, teacher).item() == pytest.approx((0.6 + 0.2) / 2)


def test_the_teacher_gets_no_gradient_and_shapes_are_checked() -> None:
    student, teacher = samples(2, 3, 4).requires_grad_(), samples(2, 3, 4, seed=1).requires_grad_()
    alignment_loss(student, teacher).backward()
    assert student.grad.abs().max() > 1e-3 and teacher.grad is None
    with pytest.raises(ValueError, match="one by one"):
        alignment_loss(student, teacher[:, :2])
    with pytest.raises(ValueError, match="mask"):
        reconstruction_loss(student, teacher, torch.ones(2, 2, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_do_not_overflow_sixteen_bits(dtype: torch.dtype) -> None:
    large = torch.full((1, 2, 4), 3e4, dtype=dtype)
    assert alignment_loss(large, -large).item() == pytest.approx(1, rel=0.01)
    masked = torch.ones(1, 2, dtype=torch.bool)
    assert reconstruction_loss(large, -large, masked).item() == pytest.approx(3.6e9, rel=0.01)


@pytest.mark.parametrize("special", [0, 1])
def test_a_decoder_predicts_all_patches_from_the_visible_ones(special: int) -> None:
    torch.manual_seed(0)
    decoder = PatchDecoder(5, 12, 8, width=8, special=special)
    mask = random_mask(2, 8, 0.75, torch.Generator().manual_seed(0))
    tokens = samples(2, 8, 5)
    seen = torch.cat([samples(2, special, 5, seed=1), visible_tokens(tokens, mask)], 1)
    seen.requires_grad_()
    pixels = decoder(seen, mask)
    assert pixels.shape == (2, 8, 12)
    assert decoder.features(seen, mask).shape == (2, 8 + special, 8)
    reconstruction_loss(pixels, samples(2, 8, 12), mask.masked).backward()
    assert (seen.grad.abs().amax(-1) > 0).all()
    assert all(p.grad is not None for p in decoder.parameters())


def test_a_decoder_does_not_care_for_the_order_of_visible_tokens() -> None:
    decoder = PatchDecoder(5, 12, 8, width=8).double()
    mask = random_mask(1, 8, 0.5, torch.Generator().manual_seed(0))
    other = mask._replace(kept=mask.kept.flip(1), restore=mask.restore.clone())
    for place, token in enumerate(other.kept[0]):
        other.restore[0, token] = place
    tokens = samples(1, 8, 5).double()
    found, expected = (decoder(visible_tokens(tokens, m), m) for m in (mask, other))
    assert torch.allclose(found, expected)


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="heads"):
        PatchDecoder(5, 12, 8, width=6)
