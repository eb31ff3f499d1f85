import math

import pytest

from dcase_coherence import LinearAnnealing


@pytest.mark.parametrize(
    ("epoch", "weight"), [(-1, 0), (0, 0), (1, 0.2), (4.5, 0.9), (5, 1), (99, 1), (math.inf, 1)]
)
def test_linear_over_five_epochs_is_the_default(epoch, weight):
    assert LinearAnnealing()(epoch) == pytest.approx(weight)


def test_no_ramp():
    assert LinearAnnealing(epochs=0)(0) == 1


@pytest.mark.parametrize("epochs", [-1, math.inf, math.nan])
def test_bad_length(epochs):
    with pytest.raises(ValueError, match=f"epochs is {epochs}"):
        LinearAnnealing(epochs=epochs)
