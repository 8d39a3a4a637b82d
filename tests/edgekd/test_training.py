from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples
from torch import Tensor, nn

from edgekd.errors import StageError
from edgekd.progress import Silent
from edgekd.training import Batch, Schedule, train

schedules = st.builds(
    Schedule,
    epochs=st.integers(1, 30),
    steps_per_epoch=st.integers(1, 40),
    learning_rate=st.just(1e-3),
    warmup=st.floats(0, 0.5),
)


@given(schedules)
def test_the_rate_rises_linearly_then_falls_to_almost_zero(schedule: Schedule) -> None:
    factors = [schedule.factor(step) for step in range(schedule.steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    top = max(1, round(schedule.warmup * schedule.steps)) - 1
    rise, fall = factors[: top + 1], factors[top:]
    assert rise[-1] == 1.0
    assert rise == pytest.approx([rise[0] * (step + 1) for step in range(len(rise))])
    assert fall == sorted(fall, reverse=True)
    assert schedule.factor(schedule.steps) < 1e-6 or schedule.steps == len(rise)


def passes(x: Tensor, y: Tensor, size: int = 8):
    def one() -> Iterator[Batch]:
        for start in range(0, len(x), size):
            yield (x[start : start + size],), y[start : start + size]

    return one


def test_training_reduces_the_loss() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 1), samples(36, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]])

    def loss(inputs: tuple[Tensor, ...], targets: Tensor | None) -> Tensor:
        return nn.functional.mse_loss(layer(*inputs), targets)

    schedule = Schedule(30, 5, 0.1)
    history = train(layer.parameters(), loss, passes(x, y), schedule, Silent(), title="t")
    assert len(history) == 30 and history[-1] < 1e-2 * history[0]


def test_training_ends_in_the_middle_of_a_pass_when_its_steps_are_used_up() -> None:
    layer, x, seen = nn.Linear(4, 1), samples(36, 4), []

    def loss(inputs: tuple[Tensor, ...], targets: Tensor | None) -> Tensor:
        seen.append(len(inputs[0]))
        return nn.functional.mse_loss(layer(*inputs), targets)

    schedule = Schedule(30, 5, 0.1, max_steps=7)
    history = train(layer.parameters(), loss, passes(x, x[:, :1]), schedule, Silent(), title="t")
    assert seen == [8, 8, 8, 8, 4, 8, 8] and len(history) == 2


def test_the_mean_loss_counts_samples_and_not_batches() -> None:
    weight = nn.Parameter(torch.zeros(1))
    x = torch.tensor([[1.0]] * 8 + [[10.0]])

    def loss(inputs: tuple[Tensor, ...], targets: Tensor | None) -> Tensor:
        return inputs[0].mean() + 0 * weight.sum()

    history = train([weight], loss, passes(x, x), Schedule(1, 2, 0.1), Silent(), title="t")
    assert history == [pytest.approx(2.0)]


def test_groups_keep_the_ratio_of_their_rates() -> None:
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups: list[dict[str, object]] = [{"params": [slow]}, {"params": [fast], "lr": 0.1}]

    def loss(inputs: tuple[Tensor, ...], targets: Tensor | None) -> Tensor:
        return (slow + fast).sum()

    train(
        groups,
        loss,
        passes(samples(8, 1), samples(8, 1)),
        Schedule(1, 1, 0.01),
        Silent(),
        title="t",
    )
    assert fast.item() == pytest.approx(10 * slow.item(), rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training(bad: float) -> None:
    weight = nn.Parameter(torch.ones(1))

    def loss(inputs: tuple[Tensor, ...], targets: Tensor | None) -> Tensor:
        return weight.sum() * bad

    with pytest.raises(StageError, match=r"diverged in epoch 1.*lower learning_rate"):
        train(
            [weight],
            loss,
            passes(samples(8, 1), samples(8, 1)),
            Schedule(2, 1, 0.1),
            Silent(),
            title="t",
        )


def test_a_step_whose_gradients_overflow_is_left_out() -> None:
    """As with float16: the loss is finite, its scaled gradient is not, and the scale is halved."""
    weight, seen = nn.Parameter(torch.ones(1)), []

    def loss(inputs: tuple[Tensor, ...], targets: Tensor | None) -> Tensor:
        seen.append(weight.item())
        return weight.sum() * (1e38 if len(seen) == 2 else 1.0)

    scaler, steps = torch.amp.GradScaler("cpu", init_scale=1024.0), []
    data = samples(32, 1)
    train(
        [weight],
        loss,
        passes(data, data),
        Schedule(1, 4, 0.1, warmup=0.0),
        Silent(),
        title="t",
        scaler=scaler,
        after_step=lambda _step: steps.append(weight.item()),
    )
    assert scaler.get_scale() == 512
    assert seen[1] == seen[2] and len(set(seen)) == 3  # the second of four steps changed nothing
    assert steps == [seen[1], seen[3], weight.item()]


def test_without_a_scaler_every_step_counts() -> None:
    weight, steps = nn.Parameter(torch.ones(1)), []
    train(
        [weight],
        lambda inputs, targets: weight.square().sum(),
        passes(samples(24, 1), samples(24, 1)),
        Schedule(1, 3, 0.1),
        Silent(),
        title="t",
        after_step=lambda _step: steps.append(weight.item()),
    )
    assert len(set(steps)) == 3 and steps[-1] == weight.item()


@pytest.mark.parametrize("scaled", [False, True])
def test_a_long_gradient_is_made_shorter_before_the_scale_or_without(scaled: bool) -> None:
    weight = nn.Parameter(torch.zeros(2))
    train(
        [weight],
        lambda inputs, targets: (weight * torch.tensor([30.0, 40.0])).sum(),
        passes(samples(8, 1), samples(8, 1)),
        Schedule(1, 1, 0.1, optimizer="sgd", clip_norm=1.0),
        Silent(),
        title="t",
        scaler=torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None,
    )
    # Nesterov's first step is 1.9 times the gradient, which is (0.6, 0.8) when it is clipped.
    assert weight.tolist() == pytest.approx([-0.1 * 1.9 * 0.6, -0.1 * 1.9 * 0.8], rel=1e-5)
