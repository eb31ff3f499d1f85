"""The convolutional recurrent network of the DCASE 2021 Task 4 baseline."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor, nn

from lab.baseline.gru import GRU


class Dropout(nn.Dropout):
    """Dropout, made fast on the CPU, where torch's takes longer there than a convolution.

    A random word decides on several elements: the distribution is that of `nn.Dropout` (a `p`
    other than a quarter, a half or three quarters is rounded to 1/65536), the numbers are others.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements with probability `p` in training, and scale the others up."""
        if not self.training or self.p in (0, 1) or x.device.type != "cpu":
            return super().forward(x)
        if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
            x = x.contiguous()
        # In the order of x in memory, which the product then keeps.
        return x * dropout_mask(x.numel(), self.p).to(x.dtype).as_strided(x.size(), x.stride())


def dropout_mask(count: int, p: float) -> Tensor:
    """Draw `(count,)` numbers that are 0 with probability `p`, else `1 / (1 - p)`."""
    if (4 * p).is_integer():
        # One or two bits an element: each random byte stands for a row of a table.
        bits = 1 if p == 0.5 else 2
        codes = torch.arange(256)[:, None] >> torch.arange(0, 8, bits)
        rows = (codes % 2**bits >= p * 2**bits).float() / (1 - p)
        drawn = _random_words(-(-count * bits // 64)).view(torch.uint8)
        return rows.index_select(0, drawn.int()).view(-1)[:count]
    drawn = _random_words(-(-count // 4)).view(torch.int16)[:count]
    return (drawn >= round(p * 65536) - 32768).float().mul_(1 / (1 - p))


def _random_words(count: int) -> Tensor:
    # int64, all 64 bits of them random
    return torch.empty(count, dtype=torch.int64).random_(-(2**63), None)


class GLU(nn.Module):
    """Gated linear unit over channels: `linear(x) * sigmoid(x)`, `(batch, channels, ...)`.

    With the channels innermost in memory the permutations move no data.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Gate `(batch, channels, frames, bins)`."""
        linear = self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return linear * x.sigmoid()


class CNN(nn.Module):
    """Blocks of convolution, normalisation, activation, dropout and average pooling.

    `(batch, 1, frames, mels)` becomes `(batch, channels, frames, bins)`. The sequences hold one
    value a block; pairs are (time, frequency). `norm_momentum` is the share that a batch has in the
    statistics of the batch normalisation: the official 0.99 forgets all but the last batch, which
    has to be large then.
    """

    def __init__(
        self,
        activation: str,
        dropout: float,
        kernel_size: Sequence[int],
        padding: Sequence[int],
        stride: Sequence[int],
        nb_filters: Sequence[int],
        pooling: Sequence[Sequence[int]],
        normalization: str = "batch",
        norm_momentum: float = 0.99,
    ) -> None:
        super().__init__()
        self.cnn = nn.Sequential()
        channels = [1, *nb_filters]
        for i, (before, after) in enumerate(zip(channels, channels[1:])):
            conv = nn.Conv2d(before, after, kernel_size[i], stride[i], padding[i])
            self.cnn.add_module(f"conv{i}", conv)
            if normalization == "batch":
                norm = nn.BatchNorm2d(after, eps=0.001, momentum=norm_momentum)
                self.cnn.add_module(f"batchnorm{i}", norm)
            else:
                self.cnn.add_module(f"layernorm{i}", nn.GroupNorm(1, after))
            if activation == "glu":
                self.cnn.add_module(f"glu{i}", GLU(after))
            else:
                relu = nn.ReLU() if activation == "relu" else nn.LeakyReLU(0.2)
                self.cnn.add_module(f"relu{i}", relu)
            self.cnn.add_module(f"dropout{i}", Dropout(dropout))
            self.cnn.add_module(f"pooling{i}", nn.AvgPool2d((pooling[i][0], pooling[i][1])))
        # Channels innermost: the gate becomes a product of matrices, the pooling a sum of rows.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, 1, frames, mels)` to `(batch, channels, frames, bins)`."""
        return self.cnn(x)


class BidirectionalGRU(nn.Module):
    """Bidirectional GRU layers, `(batch, frames, dims)` to `(batch, frames, 2 * n_hidden)`."""

    def __init__(self, n_in: int, n_hidden: int, dropout: float, layers: int) -> None:
        super().__init__()
        self.rnn = GRU(
            n_in, n_hidden, layers, dropout=dropout, bidirectional=True, batch_first=True
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(batch, frames, dims)`."""
        return self.rnn(x)[0]


class CRNN(nn.Module):
    """Convolutional recurrent network with strong and weak outputs.

    Takes the `net:` section of the configuration. The state_dict has the keys and shapes of the
    official network, so checkpoints interchange. `CRNN.cnn` yields `(batch, channels, frames, 1)`,
    the representation that the coherence loss acts on.

    Args:
        attention: attention pooling for the weak output; otherwise the mean over frames.
        dropout: after each convolutional block and before the dense layer.
        n_RNN_cell: units of each direction.
        **cnn: of :class:`CNN`. Of `n_in_channel`, `rnn_type` and `rnn_layers` the configuration
            allows one value.

    Example:
        >>> net = CRNN(nb_filters=[4, 8], pooling=[[2, 4], [2, 4]], kernel_size=[3, 3],
        ...            padding=[1, 1], stride=[1, 1], n_RNN_cell=8)
        >>> strong, weak = net(torch.rand(2, 16, 40))
        >>> strong.shape, weak.shape
        (torch.Size([2, 10, 10]), torch.Size([2, 10]))
    """

    def __init__(
        self,
        n_in_channel: int = 1,
        nclass: int = 10,
        attention: bool = True,
        activation: str = "glu",
        dropout: float = 0.5,
        rnn_type: str = "BGRU",
        n_RNN_cell: int = 128,
        n_layers_RNN: int = 2,
        rnn_layers: int | None = None,
        dropout_recurrent: float = 0.0,
        train_cnn: bool = True,
        freeze_bn: bool = False,
        **cnn,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.freeze_bn = freeze_bn
        self.cnn = CNN(activation, dropout, **cnn)
        if not train_cnn:
            self.cnn.requires_grad_(False)
        self.rnn = BidirectionalGRU(
            cnn["nb_filters"][-1], n_RNN_cell, dropout_recurrent, n_layers_RNN
        )
        self.dropout = Dropout(dropout)
        self.dense = nn.Linear(n_RNN_cell * 2, nclass)
        if attention:
            self.dense_softmax = nn.Linear(n_RNN_cell * 2, nclass)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Score log-mel features.

        Args:
            x: `(batch, mels, frames)`.

        Returns:
            Posteriors in [0, 1]: strong `(batch, classes, frames)` and weak `(batch, classes)`.
        """
        z = self.cnn(x.transpose(1, 2).unsqueeze(1))
        states = self.dropout(self.rnn(z.squeeze(3).transpose(1, 2)))
        strong = self.dense(states).sigmoid()
        if self.attention:
            # Softmax over the classes of each frame, as in the original, not over the frames.
            attention = self.dense_softmax(states).softmax(-1).clamp(1e-7, 1)
            weak = (strong * attention).sum(1) / attention.sum(1)
        else:
            weak = strong.mean(1)
        return strong.transpose(1, 2), weak

    def train(self, mode: bool = True) -> CRNN:
        """Set the mode, but keep frozen batch normalisation in evaluation mode."""
        super().train(mode)
        if self.freeze_bn:
            for module in self.cnn.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval().requires_grad_(False)
        return self
