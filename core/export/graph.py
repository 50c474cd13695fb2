"""A detector as one function from pixels to boxes, which exporters take."""

import torch
from torch import Tensor, nn

from ..config.errors import UserError
from ..data.color import NORMALIZE
from ..inference.corners import CornerSettings
from ..inference.saccade import SaccadePrediction, SaccadeSettings
from ..models.detector import Detector
from .geometry import Settings, stride_of

_SCORE, _CORNER_SCORES = 4, slice(5, 7)  # columns of what is decoded; the class is the last one


class DetectionGraph(nn.Module):
    """Normalising, mirroring, the network, decoding, and conversion to pixels of the input.

    Args:
        detector: detector with its weights, on the CPU, in evaluation mode.
        settings: its settings of inference.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, detector: Detector, settings: Settings) -> None:
        super().__init__()
        self.network = detector.network
        self._decode, self._inputs = detector.decode, dict(detector.decode_inputs)
        self._stride = stride_of(settings)
        self._mirrored = not isinstance(settings, SaccadeSettings) and settings.test_flipped
        self.output_names = output_names(settings)
        color = torch.from_numpy(NORMALIZE)  # each channel by itself: its matrix is diagonal
        self.register_buffer("scale", color[:, :3].diagonal().view(3, 1, 1), persistent=False)
        self.register_buffer("shift", color[:, 3].view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Finds the objects of images.

        Args:
            images: [B, 3, height, width] in 0..255, BGR.

        Returns:
            A tensor for each of :func:`output_names`: boxes [B, n, 4] in pixels of the images;
            scores [B, n], not above 0 in rows that are no detection; labels int64 [B, n]; and, as
            far as the detector has them, scores of the two corners [B, n, 2], and attention at its
            local maxima, 0 elsewhere, [B, 1, h, w] for each range of sizes.
        """
        normalized = images.float() * self.scale + self.shift
        views = torch.cat([normalized, normalized.flip(3)]) if self._mirrored else normalized
        found = self._decode(self.network(views, **self._inputs))
        attention: tuple[Tensor, ...] = ()
        if isinstance(found, SaccadePrediction):
            attention = tuple(found.peaks)
            found = found.detections
        height, width = images.shape[2:]
        # Rounded up without numbers below 0, whose quotients ONNX rounds towards 0.
        rows, columns = ((side + self._stride - 1) // self._stride for side in (height, width))
        if self._mirrored and found.shape[2] == 8:  # those of centres are averaged already
            found = _join_mirrored(found, images.shape[0], columns)
        x, y = found[..., 0:4:2] * width / columns, found[..., 1:4:2] * height / rows
        boxes = torch.stack((x, y), 3).flatten(2)  # [B, n, 2, 2] -> [B, n, 4]
        results = [boxes, found[..., _SCORE], found[..., -1].long()]
        if "corner_scores" in self.output_names:
            results.append(found[..., _CORNER_SCORES])
        return (*results, *attention)


def _join_mirrored(found: Tensor, images: int, columns: int) -> Tensor:
    """Puts the detections of mirror images, mirrored back, behind those of their images.

    Args:
        found: [2 * B, n, 8] in cells, of B images and then of their mirror images.
        images: B.
        columns: width of the maps.

    Returns:
        [B, 2 * n, 8].
    """
    plain, mirrored = found[:images], found[images:]
    left, top, right, bottom = mirrored[..., :4].unbind(2)
    boxes = torch.stack((columns - right, top, columns - left, bottom), 2)
    return torch.cat([plain, torch.cat([boxes, mirrored[..., 4:]], 2)], 1)


def output_names(settings: Settings) -> tuple[str, ...]:
    """Names of what :class:`DetectionGraph` gives."""
    names: tuple[str, ...] = ("boxes", "scores", "labels")
    if isinstance(settings, CornerSettings) and settings.merge_bbox:
        names += ("corner_scores",)  # the weights of merging
    if isinstance(settings, SaccadeSettings):
        names += tuple(f"attention_{stride}" for stride in settings.strides)
    return names


def settings_of(detector: Detector, where: str) -> Settings:
    """Finds the settings of inference of a detector.

    Args:
        detector: detector whose ``infer`` was made with its settings.
        where: the config, for messages.

    Raises:
        UserError: it is none of the detectors that can be exported.
    """
    settings = getattr(detector.infer, "keywords", {}).get("settings")
    if not isinstance(settings, Settings):
        raise UserError(
            f"{where}: Faster R-CNN cannot be exported, because the numbers of its proposals and "
            "regions depend on the image; every other model can"
        )
    return settings
