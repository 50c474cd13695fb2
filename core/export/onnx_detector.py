"""An exported ONNX file as a detector: onnxruntime in the place of PyTorch's network."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.errors import UserError
from ..inference.batches import Found
from ..inference.centers import CenterSettings, detect_centers
from ..inference.corners import CornerSettings, detect_corners
from ..inference.crops import cut_crops
from ..inference.predict import Predict
from ..inference.requests import CanvasRequest, CropRequest, Inference, Request
from ..inference.saccade import (
    SaccadePrediction,
    SaccadeRound,
    SaccadeSettings,
    detect_saccades,
)
from ..models.ready import ReadyDetector
from .geometry import Settings
from .manifest import Manifest, read_manifest
from .onnx_file import INPUT, import_package


class OnnxDetector(ReadyDetector):
    """A detector in a file that ``cornerkit export`` wrote.

    Images are laid out and detections are suppressed as for PyTorch's detectors; what is between
    runs in onnxruntime, on a GPU if onnxruntime has one.

    Args:
        file: an ONNX file.
        threads: threads of onnxruntime on a CPU; None: as many as PyTorch takes.

    Attributes:
        manifest: the description in the file.
        batch: number of images that the file takes; None: any.

    Raises:
        UserError: onnxruntime is missing, or the file is missing or is none that it can run here.
    """

    def __init__(self, file: str | Path, threads: int | None = None) -> None:
        self.file = Path(file)
        session = _open_session(self.file, threads)
        metadata = session.get_modelmeta().custom_metadata_map
        self.manifest = read_manifest(metadata, str(file))
        network = _SessionNetwork(session, self.manifest, self.file)
        self.batch = network.batch
        settings = self.manifest.settings
        predict = Predict(network, _decoder(settings), torch.device("cpu"))
        infer = partial(_infer_in_pixels, settings=settings)
        super().__init__(infer, predict, self.manifest.class_names)

    def found(self, images: Iterable[np.ndarray], batch: int = 0) -> Iterator[Found]:
        """Finds the objects of many images, as :meth:`core.models.ready.ReadyDetector.found`.

        Args:
            images: uint8 [h, w, 3], BGR.
            batch: images that go through the network together; 0: as many as the file was made for.

        Raises:
            UserError: an image is too large for the file.
        """
        return super().found(images, batch or self.batch or 0)


class _SessionNetwork(nn.Module):
    """A session of onnxruntime as a module; it fills images up to what the file takes.

    Attributes:
        batch: number of images that the file takes; None: any.
    """

    def __init__(self, session: Any, manifest: Manifest, file: Path) -> None:
        super().__init__()
        self._session, self._file = session, file
        self._height, self._width = manifest.height, manifest.width
        count = session.get_inputs()[0].shape[0]
        self.batch = count if isinstance(count, int) else None

    def forward(self, images: Tensor, **options: Any) -> list[Tensor]:
        """Runs images [B, 3, height, width] in 0..255; options of PyTorch's networks are left."""
        images = self._filled(images)
        chunks = [images] if self.batch is None else images.split(self.batch)
        results = [self._run(chunk) for chunk in chunks]
        return [torch.cat(parts) for parts in zip(*results, strict=True)]

    def _filled(self, images: Tensor) -> Tensor:
        """Adds black pixels at the right and at the bottom, up to a size that the file takes."""
        sides = []
        for length, side in zip(images.shape[2:], (self._height, self._width), strict=True):
            steps = max(-(-(length + side.lacking) // side.step), 1)
            sides.append(max(side.least, steps * side.step - side.lacking))
            if sides[-1] > side.most:
                raise UserError(
                    f"an image is laid out in {images.shape[3]} x {images.shape[2]} pixels, and "
                    f"{self._file} takes at most {self._width.most} x {self._height.most}; export "
                    "it for larger images (--size), or for all sizes (--dynamic)"
                )
        return F.pad(images, (0, sides[1] - images.shape[3], 0, sides[0] - images.shape[2]))

    def _run(self, images: Tensor) -> list[Tensor]:
        """Runs as many images as the file takes, or fewer, to which black ones are added."""
        count = len(images)
        if self.batch is not None:
            images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, self.batch - count))
        outputs = self._session.run(None, {INPUT: images.numpy()})
        return [torch.from_numpy(output[:count]) for output in outputs]


class _PixelCanvas(CanvasRequest):
    """A canvas whose pixels the network takes as they are."""

    @staticmethod
    def batch(requests: Any, device: torch.device) -> Tensor:
        """Stacks the canvases: uint8 [B, 3, H, W]."""
        pixels = np.stack([request.canvas for request in requests]).transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(pixels))


class _PixelCrops(CropRequest):
    """Crops whose pixels the network takes as they are."""

    @staticmethod
    def batch(requests: Any, device: torch.device) -> Tensor:
        """Cuts the views of every image out of it: float32 [B, 3, H, W] in 0..255."""
        return torch.cat(
            [cut_crops(each.image.on(device), each.crops, each.size) for each in requests]
        )


def _infer_in_pixels(
    image: np.ndarray, trace: list[SaccadeRound] | None = None, *, settings: Settings
) -> Inference:
    """Finds the objects of one image with a network that normalises and mirrors by itself.

    Its boxes are in pixels of its input, as if a cell were a pixel.
    """
    steps = _steps(image, trace, settings)
    found = None
    while True:
        try:
            request = steps.send(found)
        except StopIteration as end:
            return end.value
        found = yield _in_pixels(request)


def _steps(image: np.ndarray, trace: list[SaccadeRound] | None, settings: Settings) -> Inference:
    if isinstance(settings, SaccadeSettings):
        settings = replace(settings, output_size=settings.input_size)
        return detect_saccades(image, trace, settings=settings)
    if isinstance(settings, CenterSettings):
        geometry = replace(settings.geometry, stride=1)
        settings = replace(settings, geometry=geometry, test_flipped=False)
        return detect_centers(image, trace, settings=settings)
    settings = replace(settings, stride=1, test_flipped=False)
    return detect_corners(image, trace, settings=settings)


def _in_pixels(request: Request) -> Request:
    if isinstance(request, CanvasRequest):
        return _PixelCanvas(request.canvas, request.mirrored)
    assert isinstance(request, CropRequest)
    return _PixelCrops(request.image, request.crops, request.size, request.options)


def _decoder(settings: Settings) -> Any:
    """Makes the function that converts a file's outputs to what the inference works with."""
    if isinstance(settings, CenterSettings):
        return _center_rows
    if isinstance(settings, CornerSettings):
        return _corner_rows
    return _saccade_prediction


def _center_rows(outputs: list[Tensor]) -> Tensor:
    """Box, score and class: float32 [B, n, 6]."""
    boxes, scores, labels = outputs
    return torch.cat((boxes, scores[..., None], labels[..., None]), 2)


def _corner_rows(outputs: list[Tensor]) -> Tensor:
    """Box, score, scores of both corners, 0 where they are not needed, class: float32 [B, n, 8]."""
    boxes, scores, labels, *rest = outputs
    corner_scores = rest[0] if rest else torch.zeros_like(boxes[..., :2])
    return torch.cat((boxes, scores[..., None], corner_scores, labels[..., None]), 2)


def _saccade_prediction(outputs: list[Tensor]) -> SaccadePrediction:
    """Detections as of other corners, and attention."""
    attention = tuple(outputs[3:])
    return SaccadePrediction(_corner_rows(outputs[:3]), attention, attention)


def _open_session(file: Path, threads: int | None) -> Any:
    """Opens a file with onnxruntime."""
    onnxruntime = import_package("onnxruntime")
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors
    available = onnxruntime.get_available_providers()
    providers = [f"{kind}ExecutionProvider" for kind in ("CUDA", "CPU")]
    providers = [provider for provider in providers if provider in available]
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # onnxruntime has no common base of its errors
        cause = " ".join(str(error).split())
        raise UserError(f"{file} is no ONNX file that onnxruntime can run: {cause:.200}") from None
