"""Read the output of a submodule during the model's own forward pass."""

from __future__ import annotations

import sys
from collections import OrderedDict
from types import FrameType
from typing import Any, NamedTuple, Union

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction


class _Capture(NamedTuple):
    output: Any
    replica: bool


class _Hook:
    """Forward hook of one tap."""

    def __init__(self, tap: FeatureTap) -> None:
        self.tap = tap

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.tap._capture(output, getattr(module, "_is_replica", False))

    def __getattr__(self, name: str) -> Any:
        if name == "__name__":  # what torch.jit.script asks a hook for first
            raise AttributeError(
                "torch.jit.script cannot take a tapped model: script a copy of it "
                "(copy.deepcopy(model)), which is not tapped, or remove() the tap first"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class _Hooks:
    """How the hooks of a tapped module are copied and pickled: without those of taps.

    torch keeps them in an OrderedDict in the module. Put on that dictionary as its own
    `__reduce_ex__`, this reaches every deepcopy and pickle of the module or of a model around it,
    and leaves nothing in the copies.
    """

    def __init__(self, hooks: OrderedDict[int, Any]) -> None:
        self.hooks = hooks

    def others(self) -> list[tuple[int, Any]]:
        return [item for item in self.hooks.items() if not isinstance(item[1], _Hook)]

    def __call__(self, protocol: int) -> Any:
        return OrderedDict, (), None, None, iter(self.others())


class FeatureTap:
    """Tap of a submodule's output as features `(batch, frames, dims)`, with their gradient.

    The tap adds no parameter, buffer or submodule, so a `state_dict` is the same with and without
    it. A deepcopy or an unpickled copy of the model is never tapped (a mean teacher is such a
    copy), nor does a copy or a removed tap leave anything in the modules. Under DataParallel the
    parts of all replicas are joined in the order of their devices.

    A forward without gradient, as in a validation, does not count beside one with it; nor does
    one that the backward pass of a checkpointed block repeats (torch.utils.checkpoint). Features
    from within a block with `use_reentrant=True` carry no gradient, unless they are its output,
    since torch runs it under `no_grad`.

    Args:
        model: the model, or the very submodule to tap when there is no path.
        path: dotted path of the submodule inside the model, for instance `"cnn"`; or the
            submodule itself.
        then: a submodule that the features pass through once more, for instance the pooling after
            a dropout that they are to be taken before.
        layout: the axes of the output, a letter each: `b` the batch, `t` the frames, any others
            the dims. For instance `"bdt"` for an output `(batch, dims, frames)`. None stands for
            `"bctf"`, (batch, channels, frames, bins), where there are four, and `"btd"` where
            there are three.

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
        then: Union[str, nn.Module, None] = None,
        layout: str | None = None,
    ) -> None:
        if layout is not None and not is_layout(layout):
            raise ValueError(f"layout is {layout!r}; it must be {LAYOUT}")
        self.layout = layout
        self.module = find_module(model, path)
        self.then = None if then is None else find_module(model, then)
        self.name = path if isinstance(path, str) else type(self.module).__name__
        self._captured: list[_Capture] = []
        self._forwards = 0
        self._graded = False
        self._handle: Any | None = self.module.register_forward_hook(_Hook(self))
        hooks: Any = self.module._forward_hooks
        hooks.__reduce_ex__ = _Hooks(hooks)

    @property
    def attached(self) -> bool:
        """False after :meth:`remove`, and in a copy of the tap."""
        return self._handle is not None

    def pop(self) -> Tensor:
        """Return the features of the last forward pass and forget them.

        Returns:
            `(batch, frames, dims)`, differentiable. All axes but the batch and the frames, in
            their order, become dims: `(batch, channels, frames, bins)` gives channels x bins.

        Raises:
            RuntimeError: when the submodule ran not at all, or more than once, since the last pop.
            ValueError: when its output is not a tensor of 3 or 4 dimensions, or of another
                number of them than the layout.
        """
        captured, forwards = self._captured, self._forwards
        self.clear()
        if not forwards:
            reason = "call the model (in its training forward) before pop()"
            if not self.attached:
                reason = "this tap is removed, or a copy of one; make a new FeatureTap"
            elif _compiled():
                reason += (
                    "; if torch.compile had run the model before it was tapped, tap it before the "
                    "first compiled call or call torch._dynamo.reset() after tapping it"
                )
            raise RuntimeError(f"no forward of {self.name!r} since the last pop(): {reason}")
        features = _in_batch_order([self._features(capture.output) for capture in captured])
        if not features:
            raise RuntimeError(
                f"{forwards} forwards of {self.name!r} since the last pop(): join the batches to "
                "one forward, call pop() (the regularizer) after each forward, or clear() "
                "(regularizer.tap.clear()) before the one that counts"
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
            hooks: Any = self.module._forward_hooks
            if not any(isinstance(hook, _Hook) for hook in hooks.values()):
                vars(hooks).pop("__reduce_ex__", None)
        self.clear()

    def _capture(self, output: Any, replica: bool) -> None:
        if _in_backward():
            return  # a checkpointed block makes its forward again
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
        layout = self.layout
        dims = output.dim() if isinstance(output, Tensor) else 0
        if layout is None:
            layout = {3: "btd", 4: "bctf"}.get(dims, "")
        if not layout or dims != len(layout):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            needed = "(batch, channels, frames, bins) or (batch, frames, dims), or a layout"
            if self.layout is not None:
                needed = f"with the {len(layout)} axes of its layout {layout!r}"
            raise ValueError(f"{self.name!r} gave {found}; a tap needs an output {needed}")
        if layout == "btd":
            return output
        others = [axis for axis, letter in enumerate(layout) if letter not in "bt"]
        # As the CRNN flattens its channels and bins before its RNN.
        return output.permute(layout.index("b"), layout.index("t"), *others).flatten(2)

    def __enter__(self) -> FeatureTap:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.remove()

    def __getstate__(self) -> dict:
        return {
            "module": self.module,
            "then": self.then,
            "layout": self.layout,
            "name": self.name,
            "_captured": [],
            "_forwards": 0,
            "_handle": None,
        }


LAYOUT = "one letter an axis: b for the batch, t for the frames, others for the dims, as in 'bdt'"


def is_layout(layout: Any) -> bool:
    """Whether a value is a layout of :class:`FeatureTap`.

    Example:
        >>> is_layout("bctf"), is_layout("tbd"), is_layout("bt"), is_layout("bttd")
        (True, True, False, False)
    """
    return (
        isinstance(layout, str)
        and {"b", "t"} < set(layout)
        and len(set(layout)) == len(layout)
        and layout.isalpha()
    )


def _in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread.

    Before torch 2.1, which can say, only the one of a reentrant checkpoint is found.
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


def _compiled() -> bool:
    """Whether torch.compile has run anything in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and dynamo.counters["frames"]["total"] > 0


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
