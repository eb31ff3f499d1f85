import warnings

import pytest
import torch
from torch import nn

from dcase_coherence import CoherenceLoss, HeadLoss, TransitionLoss
from dcase_coherence.settings import DEFAULTS, PRESETS, Settings, preset_laid_out


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Conv1d(4, 6, 3, padding=1)

    def forward(self, x):
        return torch.sigmoid(self.cnn(x)), None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"alpha": 1}, "unknown key 'alpha'; the keys are: preset, alpha1, alpha2"),
        ({"preset": "step"}, "preset is 'step'; it must be one of exact, steps, transitions"),
        ({"preset": ["exact"]}, "preset is"),
        ({"alpha1": -1}, "alpha1 is -1"),
        ({"alpha1": "1e-3"}, "alpha1 is '1e-3'; it must be a number"),
        ({"alpha1": True}, "alpha1 is True"),
        ({"normalize": 1}, "normalize is 1; it must be true or false"),
        ({"lags": 4}, "lags is 4; it must be a list"),
        ({"transition_lags": []}, "lags is"),
        ({"transition_weight": -1}, "weight is -1"),
        ({"boundary_weight": 0.5}, "boundary_weight is 0.5"),
        ({"boundary_frames": 0}, "frames is 0"),
        ({"path": 3}, "path is 3"),
        ({"layout": "frames"}, "layout is 'frames'; it must be one letter an axis"),
        ({"posteriors_layout": "tt"}, "posteriors_layout is 'tt'"),
        ({"annealing_epochs": -1}, "epochs is -1"),
        ({"annealing_steps": 0.5}, "annealing_steps is 0.5"),
        ("exact", "coherence: is 'exact'; give a section"),
    ],
)
def test_bad_section(section, message):
    with pytest.raises(ValueError, match=message):
        Settings(section)


def test_a_path_that_is_not_there_and_a_head_of_unknown_size():
    with pytest.raises(ValueError, match="no submodule 'conv'"):
        Settings({"preset": "steps", "path": "conv"}).build(Student())
    with pytest.raises(ValueError, match=r"head needs net\.nb_filters"):
        Settings({"preset": "transitions", "head": True}).build(Student())


def test_an_empty_section_has_no_term_and_warns():
    with pytest.warns(UserWarning, match="is empty, so there is no term; name a preset"):
        (term,) = Settings({}).build(Student())
    assert (term.loss.alpha1, term.loss.alpha2) == (0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Settings({"alpha1": 0.0})


def test_keys_next_to_a_preset_override_it():
    (steps,) = Settings({"preset": "steps", "alpha2": 0.1}).build(Student())
    assert repr(steps.loss) == repr(CoherenceLoss.steps(alpha2=0.1))
    (exact,) = Settings({"preset": "exact"}).build(Student())
    assert repr(exact.loss) == repr(CoherenceLoss.exact())
    assert [exact.annealing(epoch) for epoch in (0, 2.5, 5)] == [0, 0.5, 1]
    # Two sections do not share the list.
    preset_laid_out({"preset": "steps"})["lags"].append(16)
    assert preset_laid_out({"preset": "steps"})["lags"] == [1, 2, 4, 8]


def test_each_preset_sets_what_decides_which_terms_there_are():
    deciding = {"alpha1", "alpha2", "transition_weight", "boundary_weight", "head"}
    for preset in PRESETS.values():
        assert deciding <= set(preset) <= set(DEFAULTS)


def test_transitions_are_not_annealed_unless_it_is_asked_for():
    both = {"preset": "transitions", "boundary_weight": 2}
    (term,) = Settings(both).build(Student())
    assert repr(term.loss) == repr(TransitionLoss(5.0, boundary_weight=2, dim=1))
    assert term.annealing(0) == 1
    terms = Settings({**both, "annealing_epochs": 2, "annealing_steps": 7}).build(Student())
    assert terms[0].annealing(1) == 0.5
    assert terms.annealing_steps == 7


def test_a_head_takes_the_place_of_the_models_posteriors_and_no_random_number():
    student = Student()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    settings = Settings({"preset": "transitions", "head": True, "layout": "bdt"})
    (term,) = settings.build(student, {"nb_filters": [4, 6], "nclass": 3})
    assert torch.rand(1) == expected
    assert isinstance(term.loss, HeadLoss)
    assert term.loss.head.weight.shape == (3, 6)
    student(torch.randn(2, 4, 9))
    assert term(torch.zeros(2, 9, 3)).requires_grad


def test_two_terms_at_once():
    terms = Settings({"preset": "transitions", "alpha1": 0.3, "alpha2": 0.3}).build(Student())
    assert [type(term.loss) for term in terms] == [TransitionLoss, CoherenceLoss]
