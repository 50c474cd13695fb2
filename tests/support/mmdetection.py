"""mmdetection's CornerNet and CenterNet as far as their weights need it, from its constructors.

Written after mmdet/models (backbones/hourglass.py, dense_heads/corner_head.py and
centernet_head.py, necks/ct_resnet_neck.py, utils/res_layer.py) and mmcv's ConvModule: the same
names and shapes in plain PyTorch, and what they compute.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18


class ConvModule(nn.Module):
    """A convolution, with ``norm`` a batch norm in place of its bias, and with ``act`` a ReLU."""

    def __init__(self, before, after, kernel, *, stride=1, norm=True, act=True, up=False):
        super().__init__()
        layer = nn.ConvTranspose2d if up else nn.Conv2d
        padding = 1 if up else kernel // 2
        self.conv = layer(before, after, kernel, stride, padding, bias=not norm)
        self.bn = nn.BatchNorm2d(after) if norm else nn.Identity()
        self.act = F.relu if act else nn.Identity()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class BasicBlock(nn.Module):
    def __init__(self, before, after, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            shortcut = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(after))

    def forward(self, x):
        kept = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + kept)


def blocks(before, after, count, stride=1, change_last=False):
    """Blocks of which the first, or the last, changes the channels and the size."""
    widths = [before] * count + [after] if change_last else [before] + [after] * count
    strides = [stride] + [1] * count
    pairs = zip(widths[:-1], widths[1:], strides, strict=False)
    return nn.Sequential(*(BasicBlock(*pair) for pair in pairs))


class HourglassModule(nn.Module):
    def __init__(self, channels, counts):
        super().__init__()
        (here, below), (count, count_below) = channels[:2], counts[:2]
        self.up1 = blocks(here, here, count)
        self.low1 = blocks(here, below, count, stride=2)
        if len(channels) > 2:
            self.low2 = HourglassModule(channels[1:], counts[1:])
        else:
            self.low2 = blocks(below, below, count_below)
        self.low3 = blocks(below, here, count, change_last=True)

    def forward(self, x):
        kept = self.up1(x)
        return kept + F.interpolate(self.low3(self.low2(self.low1(x))), size=kept.shape[2:])


class HourglassNet(nn.Module):
    def __init__(self, channels, counts, stacks=2):
        super().__init__()
        width, between = channels[0], range(stacks - 1)
        self.stem = nn.Sequential(
            ConvModule(3, width // 2, 7, stride=2), blocks(width // 2, width, 1, stride=2)
        )
        self.hourglass_modules = nn.ModuleList(
            HourglassModule(channels, counts) for _ in range(stacks)
        )
        self.inters = blocks(width, width, stacks - 1)
        self.conv1x1s = nn.ModuleList(ConvModule(width, width, 1, act=False) for _ in between)
        self.out_convs = nn.ModuleList(ConvModule(width, width, 3) for _ in range(stacks))
        self.remap_convs = nn.ModuleList(ConvModule(width, width, 1, act=False) for _ in between)

    def forward(self, x):
        x, outputs = self.stem(x), []
        for stack, hourglass in enumerate(self.hourglass_modules):
            outputs.append(self.out_convs[stack](hourglass(x)))
            if stack < len(self.inters):
                x = F.relu(self.conv1x1s[stack](x) + self.remap_convs[stack](outputs[-1]))
                x = self.inters[stack](x)
        return outputs


class BiCornerPool(nn.Module):
    def __init__(self, width, pooled, flipped):
        super().__init__()
        self.direction1_conv, self.direction2_conv = (
            ConvModule(width, pooled, 3),
            ConvModule(width, pooled, 3),
        )
        self.aftpool_conv = ConvModule(pooled, width, 3, act=False)
        self.conv1 = ConvModule(width, width, 1, act=False)
        self.conv2 = ConvModule(width, width, 3)
        self.flipped = flipped

    def pool(self, x, dim):
        """Maxima towards the start of ``dim`` (top, left); ``flipped`` towards its end."""
        if self.flipped:
            return x.cummax(dim)[0]
        return x.flip(dim).cummax(dim)[0].flip(dim)

    def forward(self, x):
        pooled = self.pool(self.direction1_conv(x), 2) + self.pool(self.direction2_conv(x), 3)
        return self.conv2(F.relu(self.aftpool_conv(pooled) + self.conv1(x)))


class CornerHead(nn.Module):
    def __init__(self, classes, width, pooled, stacks=2):
        super().__init__()
        kinds = {"heat": classes, "emb": 1, "off": 2}
        for corner in ("tl", "br"):
            pools = (BiCornerPool(width, pooled, corner == "br") for _ in range(stacks))
            self.add_module(f"{corner}_pool", nn.ModuleList(pools))
            for kind, outputs in kinds.items():
                heads = [
                    nn.Sequential(
                        ConvModule(width, width, 3, norm=False),
                        ConvModule(width, outputs, 1, norm=False, act=False),
                    )
                    for _ in range(stacks)
                ]
                self.add_module(f"{corner}_{kind}", nn.ModuleList(heads))

    def forward(self, stacks):
        """Heatmap, embedding and offset of the top-left and the bottom-right corner, last stack."""
        maps = {}
        for corner in ("tl", "br"):
            pooled = getattr(self, f"{corner}_pool")[-1](stacks[-1])
            for kind in ("heat", "emb", "off"):
                maps[f"{corner}_{kind}"] = getattr(self, f"{corner}_{kind}")[-1](pooled)
        return maps


class CTResNetNeck(nn.Module):
    def __init__(self, channels):
        super().__init__()
        layers, before = [], 512
        for after in channels:
            layers += [ConvModule(before, after, 3), ConvModule(after, after, 4, stride=2, up=True)]
            before = after
        self.deconv_layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.deconv_layers(x)


class CenterNetHead(nn.Module):
    def __init__(self, classes, before, width):
        super().__init__()
        for kind, outputs in {"heatmap": classes, "wh": 2, "offset": 2}.items():
            layers = nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, outputs, 1)
            self.add_module(f"{kind}_head", nn.Sequential(*layers))

    def forward(self, x):
        return {name: head(x) for name, head in self.named_children()}


class CornerNet(nn.Module):
    def __init__(self, classes, channels, counts, pooled):
        super().__init__()
        self.backbone = HourglassNet(channels, counts)
        self.bbox_head = CornerHead(classes, channels[0], pooled)

    def forward(self, rgb):
        return self.bbox_head(self.backbone(rgb))


class CenterNet(nn.Module):
    def __init__(self, classes, up_channels, width):
        super().__init__()
        self.backbone = nn.Sequential()  # their ResNet has torchvision's names
        for name, layer in list(resnet18(weights=None).named_children())[:-2]:
            self.backbone.add_module(name, layer)
        self.neck = CTResNetNeck(up_channels)
        self.bbox_head = CenterNetHead(classes, up_channels[-1], width)

    def forward(self, rgb):
        return self.bbox_head(self.neck(self.backbone(rgb)))


def with_random_statistics(network):
    """The network, whose batch norms compute something that is not the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.num_batches_tracked += torch.tensor(7)
    return network.eval()
