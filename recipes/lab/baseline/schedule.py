"""Learning rates by step."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer


class Schedule:
    """Sets the learning rate after each optimizer step, as the DCASE 2021 Task 4 baseline does.

    The first step runs at the rate the optimizer was made with, the second at that of step 2.
    `step_num` is 1 before the first optimizer step.
    """

    def __init__(self, optimizer: Optimizer, max_lr: float) -> None:
        self.optimizer = optimizer
        self.max_lr = max_lr
        self.step_num = 1

    def scaling_factor(self) -> float:
        """Position of a warm-up in (0, 1]; it also weighs the consistency loss."""
        return 1.0

    def rate(self) -> float:
        """Learning rate at the current step."""
        return self.max_lr * self.scaling_factor()

    def step(self) -> None:
        """Count a step and set the rate of the next one."""
        self.step_num += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, as plain numbers."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over :meth:`state_dict`."""
        vars(self).update(state_dict)


class ExponentialWarmup(Schedule):
    """Ramp the learning rate up to `max_lr`: `max_lr * exp(-5 * (1 - step / rampup_length)^2)`."""

    def __init__(self, optimizer: Optimizer, max_lr: float, rampup_length: int) -> None:
        super().__init__(optimizer, max_lr)
        self.rampup_len = rampup_length
        self.exponent = -5.0

    def scaling_factor(self) -> float:
        """Position of the ramp in (0, 1]; it also weighs the consistency loss."""
        if self.rampup_len == 0:
            return 1.0
        phase = 1.0 - min(max(self.step_num, 0.0), self.rampup_len) / self.rampup_len
        return math.exp(self.exponent * phase * phase)


class StepDecay(Schedule):
    """Multiply the learning rate by `factor` every `every` steps (paper, section 3.1: 0.8)."""

    def __init__(self, optimizer: Optimizer, max_lr: float, every: int, factor: float) -> None:
        super().__init__(optimizer, max_lr)
        self.every = every
        self.factor = factor

    def rate(self) -> float:
        """Learning rate at the current step."""
        return self.max_lr * self.factor ** ((self.step_num - 1) // self.every)


class CosineDecay(ExponentialWarmup):
    """After the ramp let the learning rate fall to 0 as half a cosine (Loshchilov & Hutter, 2017).

    `steps` are those of the whole training, ramp included.
    """

    def __init__(self, optimizer: Optimizer, max_lr: float, rampup_length: int, steps: int) -> None:
        super().__init__(optimizer, max_lr, rampup_length)
        self.steps = steps

    def rate(self) -> float:
        """Learning rate at the current step."""
        if self.step_num <= self.rampup_len:
            return super().rate()
        # The ramp counts from 1.
        done = (self.step_num - 1 - self.rampup_len) / max(self.steps - self.rampup_len, 1)
        return self.max_lr * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2
