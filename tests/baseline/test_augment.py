"""Mixup, against the official baseline's."""

import pytest
import torch

from dcase_coherence.baseline.augment import mixup


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_same_seeds_give_the_official_mix(golden, golden_inputs, kind):
    golden_inputs.seed_all(11)
    data, target = mixup(golden["mixup_data"], golden["mixup_target"], mixup_label_type=kind)
    torch.testing.assert_close(data, golden[f"mixup_{kind}_data"], rtol=0, atol=1e-6)
    torch.testing.assert_close(target, golden[f"mixup_{kind}_target"], rtol=0, atol=1e-6)


def test_inputs_are_left_alone(golden, golden_inputs):
    data, target = golden["mixup_data"].clone(), golden["mixup_target"].clone()
    golden_inputs.seed_all(11)
    mixed, _ = mixup(data, target)
    assert torch.equal(data, golden["mixup_data"])
    assert torch.equal(target, golden["mixup_target"])
    assert not torch.equal(mixed, data)


def test_unknown_kind_is_refused(golden):
    with pytest.raises(ValueError, match="soft or hard"):
        mixup(golden["mixup_data"], golden["mixup_target"], mixup_label_type="firm")
