"""The convolutions of VGG networks (Simonyan and Zisserman 2015, arXiv:1409.1556)."""

from collections.abc import Sequence

from torch import nn
from torchvision.models.vgg import make_layers


def vgg_features(blocks: Sequence[Sequence[int]], batch_norm: bool) -> nn.Sequential:
    """Makes blocks of 3x3 convolutions with ReLU; a max-pooling between two blocks halves the map.

    With VGG16's blocks it is torchvision's ``features`` without the last max-pooling, with the same
    keys. Weights are initialised as torchvision does.

    Args:
        blocks: channels of the convolutions of each block.
        batch_norm: True: a batch norm follows every convolution.
    """
    layers: list[str | int] = []
    for block in blocks:
        layers += ["M", *block]
    network = make_layers(layers[1:], batch_norm)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return network
