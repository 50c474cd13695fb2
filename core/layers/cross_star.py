"""The cross-star deformable convolution of CentripetalNet (arXiv:2003.09119, section 3.3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from cpools_ext.windows import gather_windows

from .heads import Head


class CrossStarConv(nn.Module):
    """A deformable convolution whose taps follow the guiding shift of their cell.

    Corner pooling leaves what belongs to a corner on the borders of the box. The guiding shift says
    how far away the centre is, so that the taps can be laid along those borders.

    The offset of every tap is a linear function of the guiding shift (arXiv:1703.06211, section 2.1
    has the deformable convolution). There is no bias, and the initial weights are as published:
    Gaussian, with deviations of 0.1 for the offsets and 0.01 for the taps.

    Args:
        channels: number of channels in and out.
        kernel: side of the kernel, odd.
    """

    def __init__(self, channels: int, kernel: int = 3):
        super().__init__()
        self.kernel = kernel
        self.offset = nn.Conv2d(2, 2 * kernel * kernel, 1, bias=False)
        self.weight = nn.Parameter(torch.empty(channels, channels, kernel, kernel))
        nn.init.normal_(self.offset.weight, std=0.1)
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, features: Tensor, guiding: Tensor) -> Tensor:
        """Convolves the whole map.

        Args:
            features: [B, channels, H, W].
            guiding: [B, 2, H, W], guiding shifts (x, y) in cells.

        Returns:
            [B, channels, H, W].
        """
        offsets = self.offset(guiding)
        dtype = _at_least_float32(features)  # torchvision has no half precision on CPUs
        inputs = (features.to(dtype), offsets.to(dtype), self.weight.to(dtype))
        return deform_conv2d(*inputs, padding=self.kernel // 2).to(features.dtype)

    def in_windows(self, features: Tensor, guiding: Tensor, cells: Tensor) -> Tensor:
        """Convolves the windows about some cells only, at the cost of those cells.

        Args:
            features: [B, channels, H, W], the whole map: taps may lie anywhere.
            guiding: [B * M, 2, side, side], guiding shifts of the windows' cells; side is odd.
            cells: int64 [B, M], number ``y * W + x`` of a window's middle.

        Returns:
            [B * M, channels, side, side]; 0 at cells outside the map, as the padding of a
            convolution that follows.
        """
        height, width = features.shape[2:]
        side, kernel = guiding.shape[-1], self.kernel
        # Flattened, because compilers lose the strides of what they keep for the backward pass.
        flat = cells.flatten()
        y, x = _around(flat // width, flat % width, side)  # [n], n = B * M * side * side
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        offsets = self.offset(guiding).permute(0, 2, 3, 1).flatten(0, 2).unflatten(1, (-1, 2))
        # In half precision a cell's number and a fraction of a cell don't fit into one sum.
        offsets = offsets.to(_at_least_float32(offsets))
        taps_y, taps_x = _around(y, x, kernel)
        taps_y, taps_x = taps_y + offsets[..., 0].flatten(), taps_x + offsets[..., 1].flatten()
        samples = _bilinear(features, taps_y, taps_x).unflatten(0, (-1, kernel * kernel)).flatten(1)
        vectors = F.linear(samples, self.weight.permute(0, 2, 3, 1).flatten(1))  # [n, channels]
        vectors = torch.where(inside[:, None], vectors, 0)
        return vectors.unflatten(0, (-1, side, side)).permute(0, 3, 1, 2)


class GuidedShift(nn.Module):
    """The heads of CentripetalNet's guiding and centripetal shifts (section 3.3).

    The guiding shift lays out the taps of the convolution from which the centripetal shift is
    computed. As published, no gradient flows from there into the guiding shift, which has a loss of
    its own.

    Args:
        channels: number of channels of the features and of the layers in between.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.guide = Head(channels, channels, 2)
        self.star = CrossStarConv(channels)
        self.head = Head(channels, channels, 2)

    def forward(self, features: Tensor, cells: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Computes the whole maps, or only the vectors of some of their cells.

        A deformable convolution and two 3x3 layers on a whole map of 128 x 128 cells and 256
        channels cost 58 GFLOP. For a cell, the window about it is computed, and of the guiding
        shifts and the convolution those of the window.

        Args:
            features: [B, channels, H, W].
            cells: int64 [B, M], number ``y * W + x`` of a cell; None: all.

        Returns:
            Guiding and centripetal shift, [B, 2, H, W] each; for ``cells`` [B, M, 2].
        """
        if cells is None:
            guiding = self.guide(features)
            return guiding, self.head(self.star(features, guiding.detach()))
        side = self.head.kernel
        windows = gather_windows(features, cells, side + self.guide.kernel - 1)
        guiding = self.guide.in_windows(windows)  # [B * M, 2, side, side]
        shift = self.head.in_windows(self.star.in_windows(features, guiding.detach(), cells))
        middle = guiding[:, :, side // 2, side // 2]
        return middle.unflatten(0, cells.shape), shift.flatten(1).unflatten(0, cells.shape)


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    """The dtype of a tensor; float32 if it is of half precision."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _around(y: Tensor, x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the cells of windows about cells: int64 [n] to [n * side * side]."""
    cells = torch.arange(side * side, device=y.device)
    rows, columns = cells // side - side // 2, cells % side - side // 2
    return (y[:, None] + rows).flatten(), (x[:, None] + columns).flatten()


def _bilinear(features: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Reads a map between its cells, as if it were surrounded by cells that are 0.

    Args:
        features: [B, C, H, W].
        y, x: floating point [n], rows and columns of the points, as many in each image.

    Returns:
        [n, C].
    """
    height, width = features.shape[2:]
    images = torch.arange(features.shape[0], device=y.device)
    images = images.repeat_interleave(y.shape[0] // features.shape[0])
    down = torch.arange(4, device=y.device)[:, None] // 2  # the four cells about each point
    right = torch.arange(4, device=y.device)[:, None] % 2
    near_y, near_x = y.floor() + down, x.floor() + right  # [4, n]
    weights = torch.where(down == 1, y - y.floor(), 1 - (y - y.floor()))
    weights = weights * torch.where(right == 1, x - x.floor(), 1 - (x - x.floor()))
    inside = (near_y >= 0) & (near_y < height) & (near_x >= 0) & (near_x < width)
    rows, columns = (torch.where(inside, near, 0).long() for near in (near_y, near_x))
    cells = ((images * height + rows) * width + columns).flatten()
    vectors = features.permute(0, 2, 3, 1).flatten(0, 2)[cells].unflatten(0, (4, -1))  # [4, n, C]
    return (vectors * torch.where(inside, weights, 0)[..., None]).sum(0).to(features.dtype)
