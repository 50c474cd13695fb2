"""Corner pooling as modules, under the names of the reference implementation."""

from torch import Tensor, nn

from cpools_ext.ops import corner_pool


class _CornerPool(nn.Module):
    direction: str

    def forward(self, x: Tensor) -> Tensor:
        """[..., H, W] -> [..., H, W], with the errors of :func:`cpools_ext.ops.corner_pool`."""
        return corner_pool(x, self.direction)


class TopPool(_CornerPool):
    """The maximum of each cell and all below it."""

    direction = "top"


class BottomPool(_CornerPool):
    """The maximum of each cell and all above it."""

    direction = "bottom"


class LeftPool(_CornerPool):
    """The maximum of each cell and all to the right of it."""

    direction = "left"


class RightPool(_CornerPool):
    """The maximum of each cell and all to the left of it."""

    direction = "right"
