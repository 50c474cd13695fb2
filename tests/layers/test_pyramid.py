"""The pyramid: its one map by hand, the sizes of images, its initial weights."""

import pytest
import torch
from torch import nn

from core.layers.backbones import make_backbone
from core.layers.pyramid import PyramidFeatures, pad_to_cells


def identity_(pyramid):
    """Makes the convolutions copy their input."""
    for conv in [*pyramid.laterals, pyramid.out.conv]:
        nn.init.dirac_(conv.weight)
    return pyramid.eval()


def maps_of(height, width, channels=(2, 2, 2, 2)):
    """Random maps, those of stride 4 of this size."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(1, count, height >> level, width >> level, generator=generator)
        for level, count in enumerate(channels)
    ]


@pytest.mark.parametrize(("stride", "first"), [(4, 0), (8, 1), (16, 2)])
def test_every_coarser_cell_is_added_to_the_cells_that_it_covers(stride, first):
    pyramid = identity_(PyramidFeatures((2, 2, 2, 2), stride, 2))
    maps = maps_of(16, 24)
    with torch.no_grad():
        (stack,) = pyramid(maps)
    expected = torch.zeros_like(maps[first])
    for y in range(expected.shape[2]):
        for x in range(expected.shape[3]):
            for level in range(first, 4):
                down = level - first
                expected[:, :, y, x] += maps[level][:, :, y >> down, x >> down]
    scale = (1 + pyramid.out.bn.eps) ** -0.5
    torch.testing.assert_close(stack.features, expected * scale)
    assert [map_.shape[2] for map_ in stack.merged] == [2 << level for level in range(4 - first)]
    torch.testing.assert_close(stack.merged[-1], expected)


def test_a_map_that_was_rounded_up_is_cut():
    """A finer map of odd size has less than two cells for the last coarser one."""
    pyramid = identity_(PyramidFeatures((1, 1, 1, 1), 16, 1))
    maps = [torch.zeros(1, 1, 9, 9)] * 2
    fine, coarse = torch.zeros(1, 1, 3, 5), torch.arange(6.0).view(1, 1, 2, 3)
    with torch.no_grad():
        (stack,) = pyramid([*maps, fine, coarse])
    assert stack.features.shape == (1, 1, 3, 5)
    assert stack.merged[-1].unique().numel() > 3


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "vgg16"])
@pytest.mark.parametrize("size", [(96, 160), (97, 131), (63, 95), (31, 1)])
def test_images_of_any_size_have_whole_cells(name, size):
    """Up to a coarsest cell more, at the right and at the bottom, of the mean colour."""
    backbone = make_backbone(name, "x").eval()
    pyramid = PyramidFeatures(backbone.channels, 8, 4).eval()
    images = torch.rand(1, 3, *size)
    padded = pad_to_cells(images)
    sides = [-(-side // 32) * 32 for side in size]
    assert padded.shape == (1, 3, *sides)
    assert torch.equal(padded[:, :, : size[0], : size[1]], images)
    assert padded.sum() == pytest.approx(images.sum().item(), rel=1e-5)
    with torch.no_grad():
        (stack,) = pyramid(backbone(padded))
    assert stack.features.shape == (1, 4, sides[0] // 8, sides[1] // 8)


def test_exports_for_images_of_any_size():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = make_backbone("efficientnet_lite0", "x")
            self.pyramid = PyramidFeatures(self.backbone.channels, 8, 4)

        def forward(self, images):
            return self.pyramid(self.backbone(pad_to_cells(images)))[0].features

    network = Network().eval()
    sides = {dim: torch.export.Dim(name, min=33, max=511) for dim, name in ((2, "h"), (3, "w"))}
    program = torch.export.export(
        network, (torch.rand(1, 3, 97, 131),), dynamic_shapes={"images": sides}
    )
    for size in ((97, 131), (64, 200)):
        images = torch.rand(1, 3, *size)
        torch.testing.assert_close(program.module()(images), network(images))


def test_fresh_layers_keep_the_size_of_values():
    torch.manual_seed(0)
    pyramid = PyramidFeatures((24, 40, 112, 320), 8, 96)
    for channels, lateral in zip((40, 112, 320), pyramid.laterals, strict=True):
        values = lateral(torch.randn(4, channels, 16, 16))
        assert 0.7 < values.std() < 1.4
    values = pyramid.out.conv(torch.randn(4, 96, 16, 16))
    assert 1 < values.std() < 2  # He et al. 2015: twice the variance, for the ReLU behind it
