"""The patches apply to the named commits, and the patched trainer is the subclass."""

import math

import pytest

from dcase_coherence.official import trainers


def test_the_yaml_of_the_patched_recipe_has_the_section(case, patched):
    folder = trainers.recipe_folder(patched, case.recipe)
    assert trainers.default_config(folder, case.trainer)["coherence"] == {"preset": "steps"}


@pytest.mark.parametrize(
    "settings",
    [{"alpha1": 0.2, "alpha2": 0.05}, {"preset": "transitions", "boundary_weight": 2}],
    ids=["z", "posteriors"],
)
def test_the_patched_trainer_is_the_subclass_loss_for_loss(
    case, checkout, patched, tiny_config, make_module, train_steps, settings
):
    settings = {**settings, "annealing_epochs": 2.0}
    subclass = trainers.load_baseline(checkout, case.recipe, case.trainer).coherence
    official = trainers.load_baseline(patched, case.recipe, case.trainer).official
    modules = [make_module(cls, tiny_config(), **settings) for cls in (subclass, official)]
    losses = []
    for module in modules:
        # Without a Trainer the subclass takes the full weight, the patch asks for the epoch.
        type(module).trainer = vars(module)["trainer"] = module._trainer = _Trainer()
        module.log_dict = lambda values, log=module.log: [log(k, v) for k, v in values.items()]
        losses.append([float(loss) for loss in train_steps(module)])
        del type(module).trainer
    assert losses[0] == losses[1]
    ours, theirs = (module.logged for module in modules)
    assert float(theirs["train/coherence/weight"][2]) == pytest.approx((1 + 2 / 4) / 2)
    assert set(theirs) == set(ours)
    for name, values in ours.items():
        assert [float(v) for v in theirs[name]] == [float(v) for v in values], name
        assert not any(math.isnan(float(value)) for value in values)


class _Trainer:
    """Where a run stands: in its second epoch of four batches."""

    current_epoch, num_training_batches = 1, 4
