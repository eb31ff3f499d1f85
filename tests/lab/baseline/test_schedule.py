"""Learning rates, against the official baseline's."""

import pytest
import torch

from lab.baseline.schedule import CosineDecay, ExponentialWarmup, StepDecay


@pytest.fixture
def optimizer():
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], 1e-3)


def rates(scheduler, steps):
    for _ in range(steps):
        yield scheduler.scaling_factor(), scheduler.optimizer.param_groups[0]["lr"]
        scheduler.step()


def test_warm_up_is_the_official_one(golden, optimizer):
    ours = torch.tensor(list(rates(ExponentialWarmup(optimizer, 0.002, 6), 10)))
    torch.testing.assert_close(ours, golden["schedule"])


def test_decay(optimizer):
    result = [rate for _, rate in rates(StepDecay(optimizer, 0.001, every=2, factor=0.5), 6)]
    assert result == [0.001, 0.001, 0.0005, 0.0005, 0.00025, 0.00025]


def test_cosine_follows_the_ramp_and_ends_at_zero(optimizer):
    result = list(rates(CosineDecay(optimizer, 0.002, rampup_length=4, steps=12), 14))
    ramp = list(rates(ExponentialWarmup(optimizer, 0.002, 4), 14))
    # Of the first step the rate is what the optimizer had.
    assert [rate for _, rate in result[1:4]] == [rate for _, rate in ramp[1:4]]
    assert [weight for weight, _ in result] == [weight for weight, _ in ramp]
    fall = [rate for _, rate in result[4:]]
    assert fall[0] == 0.002
    assert fall[4] == pytest.approx(0.001)
    assert fall[8:] == [0, 0]
    assert fall == sorted(fall, reverse=True)


def test_state_is_plain_and_goes_on(optimizer):
    before = ExponentialWarmup(optimizer, 0.002, 6)
    list(rates(before, 3))
    after = ExponentialWarmup(optimizer, 1, 1)
    after.load_state_dict(before.state_dict())
    assert after.state_dict() == before.state_dict()
    assert all(isinstance(value, (int, float)) for value in before.state_dict().values())
    assert list(rates(after, 3)) != []
