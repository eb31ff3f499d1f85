"""The GRU, against torch's own."""

import pytest
import torch
from torch import nn

from lab.baseline.gru import GRU

SHAPES = [
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 1, "bidirectional": True},
    {"num_layers": 2},
]


def pair(**shape):
    torch.manual_seed(0)
    own = nn.GRU(5, 6, batch_first=True, dtype=torch.float64, **shape)
    ours = GRU(5, 6, batch_first=True, dtype=torch.float64, **shape)
    ours.load_state_dict(own.state_dict())
    return own, ours


def results(gru, x):
    x = x.clone().requires_grad_()
    states, last = gru(x)
    weights = torch.linspace(-1, 1, states.numel(), dtype=x.dtype).view_as(states)
    ((states * weights).sum() + last.square().sum()).backward()
    return {
        "states": states,
        "last": last,
        "x": x.grad,
        **{name: parameter.grad for name, parameter in gru.named_parameters()},
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("frames", [1, 9])
def test_states_and_gradients_are_torchs(shape, frames):
    x = torch.randn(3, frames, 5, dtype=torch.float64)
    own, ours = (results(gru, x) for gru in pair(**shape))
    assert own.keys() == ours.keys()
    for name, value in own.items():
        torch.testing.assert_close(ours[name], value, msg=name)


def test_dropout_between_layers_is_torchs():
    own, ours = pair(num_layers=2, dropout=0.5)
    x = torch.randn(3, 9, 5, dtype=torch.float64)
    for gru in (own.train(), ours.train()):
        assert not torch.equal(gru(x)[0], gru(x)[0])
    torch.testing.assert_close(ours.eval()(x), own.eval()(x))


def test_a_given_state_and_reduced_precision_are_left_to_torch():
    own, ours = pair()
    x, state = torch.randn(3, 9, 5, dtype=torch.float64), torch.randn(1, 3, 6, dtype=torch.float64)
    assert torch.equal(ours(x, state)[0], own(x, state)[0])
    own, ours = own.float(), ours.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x.float())[0].dtype == own(x.float())[0].dtype
