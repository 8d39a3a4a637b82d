import pytest
import torch
from networks import samples

from edgekd.algorithms.patch_embedding_loss import PatchEmbeddingProjectors, patch_embedding_loss


def embeddings(seed: int = 0, channels: tuple[int, ...] = (2, 4, 6, 8)) -> list[torch.Tensor]:
    return [samples(2, 3, c, seed=seed + i) for i, c in enumerate(channels)]


def test_stages_are_weighted() -> None:
    student = [torch.zeros(1, 2, 3)] * 4
    teacher = [torch.full((1, 2, 3), value) for value in (1.0, 2.0, 3.0, 4.0)]
    found = patch_embedding_loss(student, teacher).item()
    assert found == pytest.approx(0.1 * 1 + 0.1 * 4 + 0.5 * 9 + 16)
    assert patch_embedding_loss(student, teacher, weights=(0, 0, 0, 0)).item() == 0


def test_equal_embeddings_cost_nothing_and_the_teacher_gets_no_gradient() -> None:
    student = [x.requires_grad_() for x in embeddings()]
    teacher = [x.requires_grad_() for x in embeddings(9)]
    assert patch_embedding_loss(teacher, teacher).item() == 0
    patch_embedding_loss(student, teacher).backward()
    assert all(x.grad is not None for x in student) and all(x.grad is None for x in teacher)


def test_projectors_reach_the_teachers_channels() -> None:
    projectors = PatchEmbeddingProjectors((2, 4, 6, 8), (3, 5, 7, 9))
    found = projectors(embeddings())
    assert [x.shape[-1] for x in found] == [3, 5, 7, 9]
    patch_embedding_loss(found, embeddings(9, (3, 5, 7, 9))).backward()
    assert all(p.grad is not None for p in projectors.parameters())


def test_unlike_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="one for each stage"):
        patch_embedding_loss(embeddings()[:3], embeddings()[:3])
    with pytest.raises(ValueError, match="one by one"):
        patch_embedding_loss(embeddings(), embeddings(0, (2, 4, 6, 7)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_do_not_overflow_sixteen_bits(dtype: torch.dtype) -> None:
    teacher = [torch.full((1, 2, 3), 3000.0, dtype=dtype)]
    found = patch_embedding_loss([-teacher[0]], teacher, weights=(1,))
    assert found.item() == pytest.approx(3.6e7, rel=0.01)
