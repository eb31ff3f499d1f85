"""Read the output of a submodule during the model's own forward pass."""

from __future__ import annotations

from typing import Any, NamedTuple, Union

import torch
from torch import Tensor, nn


class _Untapped:
    """What a copied model carries in the place of a tap: nothing happens."""

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        pass


class _Capture(NamedTuple):
    output: Any
    replica: bool


class _Hook:
    """Forward hook of one tap, which a deepcopy or a pickle of the model leaves behind."""

    def __init__(self, tap: FeatureTap) -> None:
        self.tap = tap

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.tap._capture(output, getattr(module, "_is_replica", False))

    def __deepcopy__(self, memo: Any) -> Any:
        return _Untapped()

    def __reduce__(self) -> Any:
        return _Untapped, ()


class FeatureTap:
    """Tap of a submodule's output as features `(batch, frames, dims)`, with their gradient.

    The tap adds no parameter, buffer or submodule, so a `state_dict` is the same with and without
    it. A deepcopy or an unpickled copy of the model is never tapped (a mean teacher is such a
    copy). Under DataParallel the parts of all replicas are joined in the order of their devices.
    A forward without gradient, as in a validation, does not count beside one with it.

    Args:
        model: the model, or the very submodule to tap when there is no path.
        path: dotted path of the submodule inside the model, for instance `"cnn"`; or the
            submodule itself.
        then: a submodule that the features pass through once more, for instance the pooling after
            a dropout that they are to be taken before.

    Raises:
        ValueError: when the model has no such submodule.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d((1, 8)))
        >>> with FeatureTap(model, "1") as tap:
        ...     _ = model(torch.zeros(2, 1, 50, 8))
        ...     tap.pop().shape
        torch.Size([2, 50, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        path: Union[str, nn.Module, None] = None,
        then: Union[str, nn.Module, None] = None,
    ) -> None:
        self.module = find_module(model, path)
        self.then = None if then is None else find_module(model, then)
        self.name = path if isinstance(path, str) else type(self.module).__name__
        self._captured: list[_Capture] = []
        self._forwards = 0
        self._graded = False
        self._handle: Any | None = self.module.register_forward_hook(_Hook(self))

    @property
    def attached(self) -> bool:
        """False after :meth:`remove`, and in a copy of the tap."""
        return self._handle is not None

    def pop(self) -> Tensor:
        """Return the features of the last forward pass and forget them.

        Returns:
            `(batch, frames, dims)`, differentiable. A 4-D output `(batch, channels, frames, bins)`
            gives dims = channels x bins; a 3-D output is taken to be `(batch, frames, dims)`.

        Raises:
            RuntimeError: when the submodule ran not at all, or more than once, since the last pop.
            ValueError: when its output is not a tensor of 3 or 4 dimensions.
        """
        captured, forwards = self._captured, self._forwards
        self.clear()
        if not forwards:
            reason = (
                "call the model (in its training forward) before pop()"
                if self.attached
                else "this tap is removed, or a copy of one; make a new FeatureTap"
            )
            raise RuntimeError(f"no forward of {self.name!r} since the last pop(): {reason}")
        features = _in_batch_order([self._features(capture.output) for capture in captured])
        if not features:
            raise RuntimeError(
                f"{forwards} forwards of {self.name!r} since the last pop(): call pop() after "
                "each forward, or clear() before the one that counts"
            )
        if len(features) == 1:
            return features[0]
        return torch.cat([part.to(features[0].device) for part in features])

    def clear(self) -> None:
        """Forget what was captured, for instance in a forward pass without a loss."""
        self._captured, self._forwards = [], 0

    def remove(self) -> None:
        """Detach the tap from the model and forget what was captured."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self.clear()

    def _capture(self, output: Any, replica: bool) -> None:
        graded = bool(getattr(output, "requires_grad", False))
        if self._forwards and graded != self._graded:
            # A forward without gradient (a validation, say) does not count beside one with it.
            if not graded:
                return
            self.clear()
        self._graded = graded
        self._forwards += 1
        if self._forwards > 1 and not (replica and self._captured and self._captured[0].replica):
            # pop() will refuse: a whole validation epoch must not pile up in the meantime.
            self._captured = []
            return
        self._captured.append(_Capture(output, replica))

    def _features(self, output: Any) -> Tensor:
        if self.then is not None:
            output = self.then(output)
        if isinstance(output, Tensor) and output.dim() == 4:
            # (batch, channels, frames, bins); the CRNN flattens the same way before its RNN.
            return output.permute(0, 2, 1, 3).flatten(2)
        if isinstance(output, Tensor) and output.dim() == 3:
            return output
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"{self.name!r} gave {found}; a tap needs an output (batch, channels, frames, bins) "
            "or (batch, frames, dims)"
        )

    def __enter__(self) -> FeatureTap:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.remove()

    def __getstate__(self) -> dict:
        return {
            "module": self.module,
            "then": self.then,
            "name": self.name,
            "_captured": [],
            "_forwards": 0,
            "_handle": None,
        }


def find_module(model: nn.Module, path: Union[str, nn.Module, None]) -> nn.Module:
    """Find a submodule by its dotted path, or check that it is one.

    Raises:
        ValueError: when there is none; the message lists the model's own children.
    """
    if path is None:
        return model
    if isinstance(path, nn.Module):
        if not any(path is module for module in model.modules()):
            raise ValueError(f"the given {type(path).__name__} is not a submodule of the model")
        return path
    module: Any = model
    for name in path.split("."):
        module = getattr(module, name, None)
        if not isinstance(module, nn.Module):
            children = ", ".join(name for name, _ in model.named_children()) or "none"
            raise ValueError(
                f"{type(model).__name__} has no submodule {path!r}; its children are: {children}"
            )
    return module


def _in_batch_order(parts: list[Tensor]) -> list[Tensor]:
    """Parts that make up one forward pass, in batch order; none when they are of several."""
    devices = [part.device for part in parts if part.is_cuda]
    if len(devices) != len(set(devices)):
        return []
    # Threads of DataParallel end in any order, its scatter goes by device index.
    return sorted(parts, key=lambda part: part.device.index or 0) if devices else parts
