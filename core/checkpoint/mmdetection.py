"""Weights of mmdetection's CornerNet and CenterNet, by the keys of this package's networks.

Its networks compute the same from other names, and from RGB with ImageNet's mean and deviation:
CornerNet on hourglasses is ours as published; CenterNet on ResNet-18, without deformable
convolutions, is ours with ``model.up_convolutions``. The classes have COCO's order in both.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..config.errors import UserError
from ..layers.first_convolution import adapt_first_convolution_

_HEAD = "bbox_head."  # before the keys of the heads of all its detectors of one stage
_DEFORMABLE = ".conv_offset"  # in the keys of deformable convolutions, also of CenterNet's authors


@dataclass(frozen=True)
class _Network:
    """A network of mmdetection.

    Attributes:
        name: its name.
        use: what it is here, for the log.
        mark: beginning of keys that it alone has.
        names: patterns of whole keys, and ours; the first that matches counts.
        first: our key of the first convolution's weight, and of the mean after it.
    """

    name: str
    use: str
    mark: str
    names: Mapping[str, str]
    first: tuple[str, str]


_HEADS = {"heat": "heats", "emb": "tags", "off": "offs"}
_POOL = r"bbox_head\.(tl|br)_pool\.(\d+)\."
_CORNERNET = _Network(
    "CornerNet",
    "CornerNet",
    "backbone.hourglass_modules.",
    {
        r"backbone\.stem\.0\.(.*)": r"hg.pre.0.\1",
        r"backbone\.stem\.1\.0\.downsample\.(.*)": r"hg.pre.1.skip.\1",
        r"backbone\.stem\.1\.0\.(.*)": r"hg.pre.1.\1",
        r"backbone\.hourglass_modules\.(.*)\.downsample\.(.*)": r"hg.hgs.\1.skip.\2",
        r"backbone\.hourglass_modules\.(.*)": r"hg.hgs.\1",
        r"backbone\.inters\.(.*)": r"hg.inters.\1",
        r"backbone\.conv1x1s\.(\d+)\.conv\.(.*)": r"hg.inters_.\1.0.\2",
        r"backbone\.conv1x1s\.(\d+)\.bn\.(.*)": r"hg.inters_.\1.1.\2",
        r"backbone\.out_convs\.(.*)": r"hg.cnvs.\1",
        r"backbone\.remap_convs\.(\d+)\.conv\.(.*)": r"hg.cnvs_.\1.0.\2",
        r"backbone\.remap_convs\.(\d+)\.bn\.(.*)": r"hg.cnvs_.\1.1.\2",
        rf"{_POOL}direction([12])_conv\.(.*)": r"\1_modules.\2.p\3_conv1.\4",
        rf"{_POOL}aftpool_conv\.(conv|bn)\.(.*)": r"\1_modules.\2.p_\g<3>1.\4",
        rf"{_POOL}conv1\.(conv|bn)\.(.*)": r"\1_modules.\2.\g<3>1.\4",
        rf"{_POOL}(conv2\..*)": r"\1_modules.\2.\3",
    }
    | {
        rf"bbox_head\.(tl|br)_{theirs}\.(\d+)\.{layer}\.conv\.(.*)": rf"\1_{ours}.\2.{own}.\3"
        for theirs, ours in _HEADS.items()
        for layer, own in ((0, "0.conv"), (1, "1"))
    },
    ("hg.pre.0.conv.weight", "hg.pre.0.bn.running_mean"),
)
_CENTERNET = _Network(
    "CenterNet on ResNet-18",
    "CenterNet-resnet18 with model.up_convolutions true and up_channels [256, 128, 64]",
    "neck.deconv_layers.",
    {
        r"backbone\.(.*)": r"backbone.body.\1",
        # Of each pair of layers, the even one is a convolution and the odd one doubles the size.
        **{
            rf"neck\.deconv_layers\.{2 * i + j}\.{part}\.(.*)": rf"backbone.up.{i}.{3 * j + k}.\1"
            for i in range(3)
            for j in range(2)
            for k, part in enumerate(("conv", "bn"))
        },
    }
    | {
        rf"bbox_head\.{theirs}_head\.{layer}\.(.*)": rf"{ours}.0.{own}.\1"
        for theirs, ours in {"heatmap": "hm", "wh": "wh", "offset": "reg"}.items()
        for layer, own in ((0, "0.conv"), (2, "1"))
    },
    ("backbone.body.conv1.weight", "backbone.body.bn1.running_mean"),
)


def from_mmdetection(weights: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], str]:
    """Renames the weights of a network of mmdetection, and converts its first convolution.

    Args:
        weights: tensors by key; those of other programs are returned as they are.
        where: the file, for messages.

    Returns:
        The weights by our keys; and what was done, for the log, empty if nothing was.

    Raises:
        UserError: the weights are those of a network that this package does not have, of
            mmdetection or with deformable convolutions.
    """
    deformable = next((key for key in weights if _DEFORMABLE in key), None)
    if deformable is not None:
        raise UserError(
            f"{where} is of a network with deformable convolutions ({deformable}), which no "
            "network here has; of mmdetection's CenterNet, the weights without dcnv2 load"
        )
    if not any(key.startswith(_HEAD) for key in weights):
        return dict(weights), ""
    for network in (_CORNERNET, _CENTERNET):
        if any(key.startswith(network.mark) for key in weights):
            note = f"mmdetection's {network.name}, renamed for {network.use}"
            return _renamed(weights, network, where), note
    raise UserError(
        f"{where} is of a detector of mmdetection that is not here: CornerNet on hourglasses and "
        "CenterNet on ResNet-18 load"
    )


def _renamed(weights: Mapping[str, Tensor], network: _Network, where: str) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        own = _our_key(key, network.names)
        if own is None:
            raise UserError(
                f"{where} is of a variant of mmdetection's {network.name} that is not here: it "
                f"has {key}"
            )
        renamed[own] = value
    if any(key not in renamed for key in network.first):
        raise UserError(f"{where} has a part of mmdetection's {network.name} only")
    adapt_first_convolution_(renamed, *network.first, subtracted=True)
    return renamed


def _our_key(key: str, names: Mapping[str, str]) -> str | None:
    for pattern, own in names.items():
        match = re.fullmatch(pattern, key)
        if match is not None:
            return match.expand(own)
    return None
