"""Read the output of a submodule during the model's own forward pass."""

from __future__ import annotations

import contextlib
import sys
from types import FrameType
from typing import Any, Union

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

LAYOUT = "one letter an axis: b for the batch, t for the frames, others for the dims, as in 'bdt'"


class _TapHook:
    """Forward hook of a tap; torch.jit.script refuses a model that has one."""

    def __init__(self, tap: FeatureTap) -> None:
        self.tap = tap

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.tap._capture(output, getattr(module, "_is_replica", False))

    def __reduce__(self) -> Any:
        # A copy or pickle of the model has a hook that takes anything, does nothing and needs
        # nothing of this package.
        return getattr, (contextlib.nullcontext(), "__exit__")


class FeatureTap:
    """Tap of a submodule's output as features `(batch, frames, dims)`, with their gradient.

    The tap adds no parameter, buffer or submodule, so a `state_dict` is the same with and without
    it. A deepcopy or an unpickled copy of the model is not tapped (a mean teacher is such a copy).
    Under DataParallel the parts of all replicas are joined in the order of their devices.

    A forward without gradient, as in a validation, does not count beside one with it; nor does
    one that the backward pass of a checkpointed block repeats (torch.utils.checkpoint). Features
    from within a block with `use_reentrant=True` carry no gradient, unless they are its output,
    since torch runs it under `no_grad`.

    Args:
        model: the model, or the very submodule to tap when there is no path.
        path: dotted path of the submodule inside the model, for instance `"cnn"`; or the
            submodule itself.
        layout: the axes of the output, a letter each: `b` the batch, `t` the frames, any others
            the dims, which are flattened in their order. None stands for `"bctf"` (batch, channels,
            frames, bins) where there are four, and `"btd"` where there are three.
        element: index or key of the tensor in an output that is a tuple, list or dict: 0 for the
            strong posteriors of a model that returns `(strong, weak)`.

    Raises:
        ValueError: when the model has no such submodule, or for a layout without `b`, `t` and
            dims, or with a letter twice.

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
        layout: str | None = None,
        element: Union[int, str, None] = None,
    ) -> None:
        if layout is not None and not is_layout(layout):
            raise ValueError(f"layout is {layout!r}; it must be {LAYOUT}")
        self.layout, self.element = layout, element
        self.module = find_module(model, path)
        self.name = path if isinstance(path, str) else type(self.module).__name__
        self.clear()
        self._handle: Any = self.module.register_forward_hook(_TapHook(self))

    @property
    def attached(self) -> bool:
        """False after :meth:`remove`, and in a copy of the tap."""
        return self._handle is not None

    def clear(self) -> None:
        """Forget what was captured, for instance in a forward pass without a loss."""
        self._parts: list[Any] = []
        self._forwards = 0
        self._graded = False

    def remove(self) -> None:
        """Detach the tap from the model and forget what was captured."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self.clear()

    def pop(self) -> Tensor:
        """Return the features of the last forward pass and forget them.

        Returns:
            `(batch, frames, dims)`, differentiable.

        Raises:
            RuntimeError: when the submodule ran not at all, or more than once, since the last pop.
            ValueError: when its output does not have the axes of the layout, or no such element.
        """
        parts, forwards = self._parts, self._forwards
        self.clear()
        if not self.attached:
            raise RuntimeError("this tap is removed, or a copy of one; make a new FeatureTap")
        if not forwards:
            raise RuntimeError(
                f"no forward of {self.name!r} since the last pop(): call it before, not a part of "
                "it; with torch.compile, tap it before the first compiled call, or call "
                "torch._dynamo.reset()"
            )
        features = [self._arrange(part) for part in parts]
        devices = [part.device for part in features if part.is_cuda]
        if not features or len(set(devices)) < len(devices):
            raise RuntimeError(
                f"{forwards} forwards of {self.name!r} since the last pop(): join the batches to "
                "one forward, call pop() (the regularizer) after each forward, or clear() "
                "(regularizer.tap.clear()) before the one that counts"
            )
        if len(features) == 1:
            return features[0]
        # Replicas end in any order, but are scattered by device index.
        features.sort(key=lambda part: part.device.index or 0)
        return torch.cat([part.to(features[0].device) for part in features])

    def _capture(self, output: Any, replica: bool) -> None:
        if _in_backward():
            return  # a checkpointed block makes its forward again
        if self.element is not None and not isinstance(output, Tensor):
            try:
                output = output[self.element]
            except (LookupError, TypeError):
                output = None
        graded = bool(getattr(output, "requires_grad", False))
        if self._forwards and graded != self._graded:
            # A forward without gradient (a validation, say) does not count beside one with it.
            if not graded:
                return
            self.clear()
        self._graded = graded
        self._forwards += 1
        if replica or self._forwards == 1:
            self._parts.append(output)
        else:
            self._parts = []  # pop() will refuse: a whole validation epoch must not pile up

    def _arrange(self, output: Any) -> Tensor:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        layout = self.layout or {3: "btd", 4: "bctf"}.get(len(shape), "")
        if isinstance(shape, str) or not layout or len(shape) != len(layout):
            needed = "(batch, channels, frames, bins) or (batch, frames, dims), or a layout"
            if self.layout is not None:
                needed = f"with the {len(layout)} axes of its layout {layout!r}"
            if isinstance(output, (tuple, list, dict)):
                needed += "; of several outputs give the element"
            raise ValueError(f"{self.name!r} gave {shape}; a tap needs an output {needed}")
        if layout == "btd":
            return output
        others = [axis for axis, letter in enumerate(layout) if letter not in "bt"]
        # As the CRNN flattens its channels and bins before its RNN.
        return output.permute(layout.index("b"), layout.index("t"), *others).flatten(2)

    def __enter__(self) -> FeatureTap:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.remove()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_parts": [], "_forwards": 0, "_handle": None}


def is_layout(layout: Any) -> bool:
    """Whether a value is a layout of :class:`FeatureTap`."""
    return (
        isinstance(layout, str)
        and {"b", "t"} < set(layout)
        and len(set(layout)) == len(layout)
        and layout.isalpha()
    )


def find_module(model: nn.Module, path: Union[str, nn.Module, None]) -> nn.Module:
    """Find a submodule by its dotted path, or check that it is one."""
    if path in (None, ""):  # as in torch's own paths, "" is the model
        return model
    if isinstance(path, nn.Module):
        if not any(path is module for module in model.modules()):
            raise ValueError(f"the {type(path).__name__} of path is not a submodule of the model")
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


def _in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread.

    Before torch 2.1, which can say, only the one of a reentrant checkpoint is noticed.
    """
    compiling = getattr(getattr(torch, "compiler", None), "is_compiling", None)
    if compiling is not None and compiling():
        return False  # torch.compile could not trace the question below
    if hasattr(torch._C, "_current_graph_task_id"):
        return torch._C._current_graph_task_id() != -1
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not CheckpointFunction.backward.__code__:
        frame = frame.f_back
    return frame is not None
