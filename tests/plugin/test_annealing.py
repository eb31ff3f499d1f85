import math

import pytest

from dcase_coherence import ExponentialAnnealing, LinearAnnealing


@pytest.mark.parametrize(
    ("epoch", "weight"), [(-1, 0), (0, 0), (1, 0.2), (4.5, 0.9), (5, 1), (99, 1)]
)
def test_linear_over_five_epochs_is_the_default(epoch, weight):
    assert LinearAnnealing()(epoch) == pytest.approx(weight)


def test_exponential_is_the_baselines_ramp():
    ramp = ExponentialAnnealing(epochs=50)
    for epoch in (0, 10, 49, 50, 60):
        phase = 1 - min(epoch, 50) / 50
        assert ramp(epoch) == pytest.approx(math.exp(-5 * phase**2))


@pytest.mark.parametrize("kind", [LinearAnnealing, ExponentialAnnealing])
def test_no_ramp(kind):
    assert kind(epochs=0)(0) == 1
    assert kind()(math.inf) == 1


@pytest.mark.parametrize("epochs", [-1, math.inf, math.nan])
def test_bad_length(epochs):
    with pytest.raises(ValueError, match=f"epochs is {epochs}"):
        LinearAnnealing(epochs=epochs)
