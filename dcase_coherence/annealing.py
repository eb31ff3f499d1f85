"""Weights in [0, 1] that bring the term in over the first epochs."""

from __future__ import annotations

import math


class LinearAnnealing:
    """Weight that grows linearly from 0 to 1 over the first epochs (the paper's five).

    Args:
        epochs: length of the ramp; 0 gives the full weight from the start.

    Raises:
        ValueError: when epochs is negative or not finite.

    Example:
        >>> ramp = LinearAnnealing(epochs=5.0)
        >>> ramp(0), ramp(2.5), ramp(7)
        (0.0, 0.5, 1.0)
    """

    def __init__(self, epochs: float = 5.0) -> None:
        if not 0 <= epochs < math.inf:
            raise ValueError(f"epochs is {epochs}; it must be a finite number of at least 0")
        self.epochs = epochs

    def __call__(self, epoch: float) -> float:
        """Weight at a (fractional, 0-based) epoch."""
        return min(max(epoch / self.epochs, 0.0), 1.0) if self.epochs else 1.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(epochs={self.epochs})"
