import pytest
import torch
import torch.nn.functional as F
from loss_checks import check_large_half_precision, logits
from networks import samples

from edgekd.algorithms.subclasses import (
    class_logits,
    fit_subclasses,
    subclass_loss,
    subclass_targets,
)

LABELS = torch.arange(30) % 3
LABELS[29] = -1
EMBEDDINGS = samples(30, 8).double()
WEIGHT = samples(3, 8, seed=1).double()
TEACHER = EMBEDDINGS @ WEIGHT.T


def fitted(subclasses: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return fit_subclasses(EMBEDDINGS, LABELS, WEIGHT, subclasses=subclasses, generator=generator)


def test_directions_are_unseen_by_the_output_layer_and_have_variance_one() -> None:
    split = fitted()
    assert split.directions.shape == (3, 8, 2) and split.means.shape == (3, 8)
    for index in range(3):
        directions = split.directions[index].double()
        assert (WEIGHT @ directions).abs().max() < 1e-5
        chosen = EMBEDDINGS[index == LABELS]
        assert ((chosen - split.means[index]) @ directions).std(0).tolist() == pytest.approx([1, 1])


def test_the_directions_span_the_main_components_of_a_class() -> None:
    """Embeddings that vary most along one hidden axis have it for their one direction."""
    weight = torch.eye(2, 6)
    embeddings = samples(40, 6) * torch.tensor([1, 1, 0.1, 5, 0.1, 0.1])
    split = fit_subclasses(
        embeddings, torch.arange(40) % 2, weight, subclasses=1, generator=torch.Generator()
    )
    for direction in split.directions[:, :, 0]:
        assert F.normalize(direction, dim=0).abs()[3] > 0.99


def test_a_seed_turns_the_directions_within_the_same_plane() -> None:
    one, two = (fitted(seed=seed).directions[0].double() for seed in (0, 1))
    assert (one - two).abs().max() > 0.1
    within = one @ torch.linalg.lstsq(one, two).solution
    torch.testing.assert_close(within, two, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_classs_parts_add_up_to_the_teachers_probability(seed: int) -> None:
    split = fitted(seed=seed)
    found = subclass_targets(split, EMBEDDINGS, TEACHER, sharpness=3.0, temperature=2.0)
    sums = found.reshape(30, 3, 2).sum(-1)
    torch.testing.assert_close(sums, (TEACHER / 2).softmax(1))


def test_one_part_or_no_sharpness_is_plain_distillation() -> None:
    one = subclass_targets(fitted(1), EMBEDDINGS, TEACHER)
    torch.testing.assert_close(one, TEACHER.softmax(1))
    student = logits(30, 3)
    expected = F.cross_entropy(student, TEACHER.softmax(1))
    assert subclass_loss(student, one).item() == pytest.approx(expected.item())
    even = subclass_targets(fitted(), EMBEDDINGS, TEACHER, sharpness=0.0)
    halves = (TEACHER.softmax(1) / 2).repeat_interleave(2, dim=1)
    torch.testing.assert_close(even, halves)


def test_targets_worked_out_by_hand() -> None:
    # Two classes that see axis 0; the hidden axis 1 is (+1, -1) around class means, deviation
    # sqrt(4/3) of four samples, so a unit projection there is +-sqrt(3/4).
    weight = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    embeddings = torch.tensor([[2.0, 1, 0], [2, -1, 0], [2, 1, 0], [2, -1, 0]])
    split = fit_subclasses(
        torch.cat([embeddings, -embeddings]),
        torch.tensor([0] * 4 + [1] * 4),
        weight,
        subclasses=1,
        generator=torch.Generator(),
    )
    projected = (embeddings - split.means[0]) @ split.directions[0]
    assert projected.abs().flatten().tolist() == pytest.approx([0.75**0.5] * 4)


def test_class_logits_have_the_summed_probabilities() -> None:
    student = logits(4, 6)
    summed = student.softmax(1).reshape(4, 3, 2).sum(-1)
    torch.testing.assert_close(class_logits(student, 2).softmax(1), summed)


def test_what_cannot_be_fitted_is_refused_with_the_reason() -> None:
    generator = torch.Generator()
    with pytest.raises(ValueError, match="leave 5 directions"):
        fit_subclasses(EMBEDDINGS, LABELS, WEIGHT, subclasses=6, generator=generator)
    with pytest.raises(ValueError, match="class 2 has 0 samples"):
        fit_subclasses(EMBEDDINGS, LABELS % 2, WEIGHT, subclasses=2, generator=generator)
    with pytest.raises(ValueError, match="subclasses"):
        subclass_loss(torch.zeros(2, 3), torch.zeros(2, 6))


def test_sixteen_bits_are_enough() -> None:
    check_large_half_precision(lambda s, t: subclass_loss(s, t.float().softmax(-1)))
    found = subclass_targets(fitted(), EMBEDDINGS.half(), TEACHER.half())
    assert found.isfinite().all() and found.dtype == torch.float32
