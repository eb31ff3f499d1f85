import pytest
import torch

from dcase_coherence import CoherenceLoss, coherence_loss


def test_is_the_function_with_settings():
    torch.manual_seed(0)
    z, y = torch.randn(2, 6, 3), torch.rand(2, 6, 2)
    valid = torch.rand(2, 6) > 0.2
    settings = {
        **{"reduction": "sum", "margin": 1.0, "normalize": True, "tolerance": 0.1},
        **{"lags": [2, 3], "center": True},
    }
    torch.testing.assert_close(
        CoherenceLoss(0.4, 0.2, **settings)(z, y, valid),
        coherence_loss(z, y, 0.4, 0.2, valid=valid, **settings),
    )


def test_adds_nothing_to_a_state_dict():
    assert CoherenceLoss().state_dict() == {}


def test_repr_names_the_settings():
    assert "alpha1=0.1, alpha2=0.03, lags=(1,)" in repr(CoherenceLoss())


def test_bad_settings_are_refused_at_construction():
    with pytest.raises(ValueError, match="alpha2 is -1"):
        CoherenceLoss(0.1, -1)
    with pytest.raises(ValueError, match="lags is 2"):
        CoherenceLoss(lags=2)
