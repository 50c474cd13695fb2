"""Prediction heads: from features to the maps that the losses and the decoder read."""

from torch import nn

from core.layers.blocks import ConvRelu

# Logit of the probability 0.1: with it, the many empty cells don't drown the first steps
# (RetinaNet, arXiv:1708.02002, section 4.1).
HEATMAP_BIAS = -2.19


class Head(nn.Sequential):
    """A convolution with ReLU, then a 1x1 convolution.

    Maps [B, in_channels, H, W] to [B, out_channels, H, W].

    The keys ``0.conv`` and ``1`` are frozen: weights of the reference depend on them.

    Args:
        in_channels: number of channels of the features.
        hidden_channels: number of channels between the two convolutions.
        out_channels: number of maps.
        kernel: side of the first convolution's kernel.
        bias: where to start the bias of the maps; None: PyTorch's random start.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        kernel: int = 3,
        bias: float | None = None,
    ):
        output = nn.Conv2d(hidden_channels, out_channels, 1)
        super().__init__(ConvRelu(in_channels, hidden_channels, kernel), output)
        if bias is not None:
            assert output.bias is not None
            nn.init.constant_(output.bias, bias)
