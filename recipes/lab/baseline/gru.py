"""Gated recurrent units, made fast on the CPU, where torch's take most of a training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class GRU(nn.GRU):
    """`nn.GRU` with `batch_first`, and with the same numbers, but for rounding.

    On the CPU both directions run in one loop over time, and the gradient of the weights is one
    product over all frames in the place of one a frame. Elsewhere it is torch's own.
    """

    def forward(  # type: ignore[override]  # no packed sequences
        self, x: Tensor, hx: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run over `(batch, frames, dims)`, from zeros.

        Returns:
            The states of the last layer `(batch, frames, directions * hidden)`, and those of all
            layers after their last frame `(layers * directions, batch, hidden)`.
        """
        if hx is not None or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            own: Any = super()
            return own.forward(x, hx)
        states = x.transpose(0, 1)
        last = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                states = functional.dropout(states, self.dropout, self.training)
            directions = _Layer.apply(*self._inputs(states, layer))
            last.append(directions[-1])
            # The second direction ran from the end.
            parts = directions[:, 0], directions.flip(0)[:, 1:].squeeze(1)
            states = torch.cat(parts[: directions.size(1)], -1)
        return states.transpose(0, 1), torch.cat(last)

    def _inputs(self, states: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the loop of a layer takes, for its directions together."""
        ways = [f"l{layer}", f"l{layer}_reverse"][: 1 + self.bidirectional]

        def joined(kind: str) -> Tensor:
            return torch.stack([getattr(self, f"{kind}_{way}") for way in ways])

        weight, bias = joined("weight_ih"), joined("bias_ih")
        gates = functional.linear(states, weight.flatten(0, 1), bias.flatten())
        gates = gates.unflatten(-1, (len(ways), -1)).transpose(1, 2)
        if self.bidirectional:
            gates = torch.stack([gates[:, 0], gates[:, 1].flip(0)], 1)
        return gates, joined("weight_hh"), joined("bias_hh")


class _Layer(torch.autograd.Function):
    """States of a layer's directions, with the gradient written out.

    Gates `(frames, directions, batch, 3 * hidden)` of the input (reset, update, new), recurrent
    weights `(directions, 3 * hidden, hidden)` and biases `(directions, 3 * hidden)` become states
    `(frames, directions, batch, hidden)`.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        frames, ways, batch, _ = gates.shape
        hidden = weight.size(-1)
        states = gates.new_zeros(frames + 1, ways, batch, hidden)
        recurrent = gates.new_empty(gates.shape)
        opened = gates.new_empty(frames, ways, batch, 2 * hidden)
        new = gates.new_empty(frames, ways, batch, hidden)
        by_column, bias = weight.transpose(1, 2).contiguous(), bias.unsqueeze(1)
        steps = zip(
            recurrent,
            recurrent[..., : 2 * hidden],
            recurrent[..., 2 * hidden :],
            gates[..., : 2 * hidden],
            gates[..., 2 * hidden :],
            opened,
            opened[..., :hidden],
            opened[..., hidden:],
            new,
            states,
            states[1:],
        )
        for all_, two, one, gate_two, gate_new, open_, reset, update, fresh, before, after in steps:
            torch.baddbmm(bias, before, by_column, out=all_)
            torch.add(two, gate_two, out=open_).sigmoid_()
            torch.addcmul(gate_new, reset, one, out=fresh).tanh_()
            torch.lerp(fresh, before, update, out=after)
        ctx.save_for_backward(states, recurrent[..., 2 * hidden :], opened, new, weight)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, recurrent, opened, new, weight = ctx.saved_tensors
        frames, ways, batch, hidden = new.shape
        before = states[:-1]
        reset, update = opened.unflatten(-1, (2, hidden)).unbind(-2)
        # How the gates' inputs move with the state of their frame.
        by_new = (1 - update) * (1 - new * new)
        by_gate = new.new_empty(frames, ways, batch, 3, hidden)
        torch.mul(by_new * recurrent, reset * (1 - reset), out=by_gate[..., 0, :])
        torch.mul(before - new, update * (1 - update), out=by_gate[..., 1, :])
        torch.mul(by_new, reset, out=by_gate[..., 2, :])
        # The gradient of each frame's state takes in what comes from the frame after it.
        gradient = gradient.contiguous().clone()
        moved = torch.empty_like(by_gate)
        parts = (gradient, gradient.unsqueeze(-2), by_gate, moved, moved.flatten(-2), update)
        steps = zip(*(part.unbind(0)[::-1] for part in parts), [*gradient.unbind(0)[-2::-1], None])
        for own, wide, factor, gate, flat, keep, earlier in steps:
            torch.mul(wide, factor, out=gate)
            if earlier is not None:
                earlier.addcmul_(own, keep).baddbmm_(flat, weight)
        flat = moved.flatten(-2).transpose(0, 1).flatten(1, 2)
        by_weight = flat.transpose(1, 2) @ before.transpose(0, 1).flatten(1, 2)
        by_bias = flat.sum(1)
        moved[..., 2, :] = gradient * by_new
        return moved.flatten(-2), by_weight, by_bias
