"""Networks that were published for classification, as backbones of detectors.

A backbone gives four maps, at strides 4, 8, 16 and 32 of the image. This package's images are BGR
with COCO's mean and deviation; every backbone changes them first to what its published weights were
trained on, so these are used as they are, and the zeros of its padding mean what they meant there.
"""

import difflib
import importlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from ..config.errors import UserError
from ..config.suggestions import nearest
from ..data.color import MEAN, STD
from .norm import Layers, norm
from .vgg import vgg_features

NAMES = ("efficientnet_lite0", "resnet18", "resnet50", "vgg16")
TIMM = "timm:"  # before the name of one of timm's networks
STRIDES = (4, 8, 16, 32)

Normalization = tuple[Sequence[float], Sequence[float]]  # mean and deviation of RGB in 0..1

# Those of torchvision's networks, and those that EfficientNet-Lite was trained with.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LITE = ((127 / 255,) * 3, (128 / 255,) * 3)

_VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Backbone(nn.Module):
    """A network that gives a map at each of :data:`STRIDES`, and takes this package's images.

    Attributes:
        channels: number of channels of each of the four maps, the finest first.
        body: the network, with the keys that published weights are renamed to.

    Args:
        body: module from RGB images [B, 3, h, w] to a list of the four maps.
        stages: paths in ``body`` of the modules that each map needs beyond those of the map before;
            together they have all parameters of the network.
        channels: number of channels of each map.
        normalization: mean and deviation of RGB in 0..1 of the images that ``body`` takes.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        body: nn.Module,
        stages: Sequence[Sequence[str]],
        channels: Sequence[int],
        normalization: Normalization,
    ):
        super().__init__()
        self.channels = tuple(channels)
        self.body = body
        self._paths = tuple(map(tuple, stages))
        mean, std = (torch.tensor(value, dtype=torch.float64) for value in normalization)
        own_mean, own_std = (torch.tensor(value[::-1].tolist()).double() for value in (MEAN, STD))
        for name, value in (("scale", own_std / std), ("shift", (own_mean - mean) / std)):
            self.register_buffer(name, value.float().view(3, 1, 1), persistent=False)

    @property
    def stages(self) -> tuple[nn.ModuleList, ...]:
        """The modules up to stride 4, and those that strides 8, 16 and 32 need beyond these.

        They are the network's own modules, for what is done to their parameters and statistics.
        """
        return tuple(
            nn.ModuleList(self.body.get_submodule(path) for path in paths) for paths in self._paths
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Computes the four maps.

        Args:
            images: [B, 3, h, w], BGR, with :data:`core.data.color.MEAN` and ``STD``.

        Returns:
            Four tensors [B, channels[i], H, W], the finest first; H and W are the image's sides
            over the stride, rounded up. Some of timm's networks round down.
        """
        maps: list[Tensor] = self.body(images.flip(1) * self.scale + self.shift)
        return maps


class Chain(nn.Sequential):
    """Modules that follow each other; gives the output of each of them."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Computes the output of every module from that of the one before."""
        maps = []
        for module in self:
            x = module(x)
            maps.append(x)
        return maps


def make_backbone(name: str, where: str) -> Backbone:
    """Makes a backbone, randomly initialised as its own library does.

    Args:
        name: one of :data:`NAMES`; or ``timm:`` and the name of one of timm's networks that has
            maps at strides 4, 8, 16 and 32.
        where: file, section and key that name it, for messages.

    Raises:
        UserError: there is no such backbone, timm is not installed, or the network lacks a stride.
    """
    if name.startswith(TIMM):
        return _timm_backbone(name.removeprefix(TIMM), where)
    if name not in NAMES:
        raise UserError(
            f"{where}: there is no backbone {name!r}{nearest(name, NAMES)} There are "
            f"{', '.join(NAMES)}, and {TIMM}NAME for a network of timm"
        )
    if name == "efficientnet_lite0":
        return _efficientnet_lite0()
    return _vgg16() if name == "vgg16" else _resnet(name)


def _of_stages(
    stages: Sequence[nn.Module], channels: Sequence[int], normalization: Normalization
) -> Backbone:
    """Makes a backbone of four modules that follow each other."""
    return Backbone(Chain(*stages), [[str(i)] for i in range(4)], channels, normalization)


def _resnet(name: str) -> Backbone:
    """Makes torchvision's ResNet (He et al. 2016, arXiv:1512.03385, table 1); its keys in stages.

    ResNet-50 has the stride in its 3x3 convolutions, as torchvision's weights need it.
    """
    network, widening = (resnet18(), 1) if name == "resnet18" else (resnet50(), 4)
    parts = OrderedDict(network.named_children())
    stem = OrderedDict(
        (part, parts[part]) for part in ("conv1", "bn1", "relu", "maxpool", "layer1")
    )
    stages = (nn.Sequential(stem), parts["layer2"], parts["layer3"], parts["layer4"])
    channels = [widening * width for width in (64, 128, 256, 512)]
    return _of_stages(stages, channels, IMAGENET)


def _vgg16() -> Backbone:
    """Makes the convolutions of VGG16; its maps are those after the second pooling and the others.

    Simonyan and Zisserman 2015 (arXiv:1409.1556), table 1, column D. The poolings round sizes up,
    as the strides of the other backbones do; for even sizes it makes no difference.
    """
    layers = nn.Sequential(*vgg_features(_VGG16_BLOCKS, batch_norm=False), nn.MaxPool2d(2))
    ends = [i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    for end in ends:
        layers[end - 1] = nn.MaxPool2d(2, ceil_mode=True)
    starts = (0, *ends[1:-1])
    stages = [layers[start:end] for start, end in zip(starts, ends[1:], strict=True)]
    return _of_stages(stages, [block[-1] for block in _VGG16_BLOCKS[1:]], IMAGENET)


# Expansion, channels, blocks, stride of the first of them, kernel; by stage.
_LITE_STAGES = (
    ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3)),
    ((6, 40, 2, 2, 5),),
    ((6, 80, 3, 2, 3), (6, 112, 3, 1, 5)),
    ((6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
)
_LITE_STEM = 32
_LITE_EPSILON = 1e-3  # of batch norms


def _efficientnet_lite0() -> Backbone:
    """Makes EfficientNet-Lite0, without its last 1x1 convolution and its classifier.

    It is EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946, table 1) with ReLU6 in the place of
    swish and without squeeze-and-excitation; its authors published it as code and weights.
    """
    stages: list[nn.Sequential] = []
    channels, before, blocks = [], _LITE_STEM, 0
    for groups in _LITE_STAGES:
        stage = nn.Sequential()
        if not stages:
            stage.add_module("stem", _conv_norm(3, _LITE_STEM, 3, stride=2))
        for ratio, width, count, first_stride, kernel in groups:
            for i in range(count):
                stride = first_stride if i == 0 else 1
                block = InvertedResidual(before, width, ratio, kernel, stride)
                stage.add_module(f"block{blocks}", block)
                before, blocks = width, blocks + 1
        stages.append(stage)
        channels.append(before)
    backbone = _of_stages(stages, channels, _LITE)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return backbone


class InvertedResidual(nn.Module):
    """A depthwise convolution between two 1x1 convolutions; a shortcut where the shape stays.

    Sandler et al. 2018, arXiv:1801.04381, section 3.3 and figure 4.

    Args:
        in_channels, out_channels: number of channels.
        ratio: the depthwise convolution has this many times ``in_channels``; with 1, the first 1x1
            convolution is left out.
        kernel: side of its kernel, odd.
        stride: 1, or 2 to halve the size, rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, ratio: int, kernel: int, stride: int):
        super().__init__()
        wide = ratio * in_channels
        self.expand = _conv_norm(in_channels, wide) if ratio > 1 else nn.Identity()
        self.depthwise = _conv_norm(wide, wide, kernel, stride, groups=wide)
        self.project = _conv_norm(wide, out_channels, activation=False)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H/stride, W/stride]."""
        conv, batch_norm = self.project
        y = conv(self.depthwise(self.expand(x)))
        return norm(batch_norm, y, x if self.shortcut else None)


def _conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> Layers:
    """Makes a convolution, batch norm and ReLU6, padded as TensorFlow pads even sizes.

    With stride 2, TensorFlow's "SAME" pads an even size by one pixel less before than after it. An
    odd one it pads evenly; here that is padded as the next even size, so that cell i lies at the
    same place of the image for every size, and one graph serves all sizes.
    """
    layers = Layers()
    padding = kernel // 2
    if stride == 2:
        before = (kernel - 2) // 2
        layers.add_module("pad", nn.ZeroPad2d((before, before + 2, before, before + 2)))
        padding = 0
    kind = nn.Conv2d if groups == 1 else DepthwiseConv
    conv = kind(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    layers.add_module("conv", conv)
    layers.add_module("bn", nn.BatchNorm2d(out_channels, eps=_LITE_EPSILON))
    if activation:
        layers.add_module("relu", nn.ReLU6(inplace=True))
    return layers


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution that trains in float32 on CPUs, under autocast too.

    In bfloat16, PyTorch's backward pass of kernels of 5x5 and of stride 2 is four to forty times
    slower there than in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H', W'], in the type of the weights where that is faster."""
        autocast = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not autocast or not torch.is_grad_enabled():
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype))


def import_timm(where: str) -> ModuleType:
    """Imports timm, which only ``timm:NAME`` needs.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UserError(
            f"{where}: backbones of timm need timm ({error}): pip install timm"
        ) from None


def _timm_backbone(name: str, where: str) -> Backbone:
    """Makes one of timm's networks without its classifier, if it is like the others here."""
    timm = import_timm(where)
    names = sorted({*timm.list_models(), *timm.list_models(include_tags=True)})
    if name not in names:
        near = ", ".join(difflib.get_close_matches(name, names, 3, 0))
        raise UserError(
            f"{where}: timm {timm.__version__} has no network {name!r}; similar names are {near}"
        )
    try:
        with torch.device("meta"), torch.enable_grad():
            info = timm.create_model(name, features_only=True).feature_info
            indices = dict(zip(info.reduction(), info.out_indices, strict=True))
            if not indices.keys() >= set(STRIDES):
                raise ValueError(f"it has maps at strides {', '.join(map(str, indices))}")
            out_indices = [indices[stride] for stride in STRIDES]
            arguments = {"features_only": True, "out_indices": out_indices}
            outline = timm.create_model(name, **arguments)
            stages = _timm_stages(outline)
            _require_maps(outline)
    except Exception as error:  # whatever a network of timm raises where it does not fit
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{where}: timm's {name} cannot be a backbone here, which needs maps [B, C, H, W] at "
            f"strides 4, 8, 16 and 32 for any image size: {cause}"
        ) from error
    body = timm.create_model(name, **arguments)
    cfg = body.default_cfg
    return Backbone(body, stages, body.feature_info.channels(), (cfg["mean"], cfg["std"]))


def _timm_stages(body: nn.Module) -> list[list[str]]:
    """Splits the modules of a network into four stages: paths, in the order of registration.

    timm writes ``a.b`` as ``a_b`` where it moves the module ``b`` up.
    """
    paths = {path.replace(".", "_"): path for path, _ in body.named_modules()}
    info: Any = body.feature_info
    names = [name.replace(".", "_") for name in info.module_name()]
    if not paths.keys() >= set(names):
        raise ValueError("it is not made of stages that follow each other")
    ends = [paths[name] for name in names]
    stages: list[list[str]] = [[]]
    for path in _parts(body, ends):
        stages[-1].append(path)
        if path in ends[:-1]:
            stages.append([])
    inside = [
        p for stage in stages for path in stage for p in body.get_submodule(path).parameters()
    ]
    if len(stages) != len(ends) or len(inside) != len(list(body.parameters())):
        raise ValueError("it has parameters outside of its stages")
    return stages


def _parts(module: nn.Module, ends: Sequence[str], prefix: str = "") -> Iterator[str]:
    """Lists the paths of the largest modules that hold none of ``ends`` inside them."""
    for name, child in module.named_children():
        path = prefix + name
        if any(end.startswith(f"{path}.") for end in ends):
            yield from _parts(child, ends, f"{path}.")
        else:
            yield path


def _require_maps(body: nn.Module) -> None:
    """Checks that a network on the meta device gives the four maps, and needs all its parameters.

    Raises:
        ValueError: it does not.
    """
    height, width = 96, 160
    maps = body(torch.zeros(2, 3, height, width, device="meta"))
    info: Any = body.feature_info
    expected = [
        (2, channels, height // stride, width // stride)
        for channels, stride in zip(info.channels(), STRIDES, strict=True)
    ]
    shapes = [tuple(value.shape) for value in maps]
    if shapes != expected:
        raise ValueError(f"its maps for {height} x {width} pixels have the shapes {shapes}")
    torch.stack([value.sum() for value in maps]).sum().backward()
    unused = [key for key, value in body.named_parameters() if value.grad is None]
    if unused:
        raise ValueError(f"no map depends on its parameters {', '.join(unused[:3])}")
