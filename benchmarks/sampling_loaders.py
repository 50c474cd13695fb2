"""The loaders that ``benchmarks.sampling`` compares: the project's, and a plain one of torchvision.

Both crop 0.6 to 1.3 times 511 pixels of an image, resize that to 511 x 511, flip every second one
and change brightness, contrast and saturation by 0.4. The project's adds PCA lighting, and leaves
the arithmetic of colours to the device; torchvision's does it in the worker, whose batches are
floats.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, default_collate
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from core.config.loading import Db
from core.data.color import JITTER, MEAN, STD
from core.data.loader import batch_loader
from core.data.samples import CropSettings
from core.data.samples.corners import sample_corners

OBJECTS = 20
PREFETCH = 5
SIZE = (511, 511)
DB = Db()
SAMPLE = partial(
    sample_corners,
    settings=CropSettings(
        input_size=SIZE,
        scales=DB.scales,
        border=DB.border,
        crop=True,
        color=True,
        lighting=True,
    ),
)


class Folder:
    """Images of a folder, each with the same random boxes, in the place of a CocoDetection."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        low = np.random.default_rng(0).uniform(0, 400, (OBJECTS, 2))
        self.random_boxes = np.concatenate([low, low + 60], 1).astype(np.float32)

    def __len__(self) -> int:
        return len(self.paths)

    def image_path(self, index: int) -> Path:
        return self.paths[index]

    def boxes(self, index: int) -> np.ndarray:
        return self.random_boxes

    def labels(self, index: int) -> np.ndarray:
        return np.zeros(OBJECTS, np.int64)


def generate(folder: Path, count: int = 64) -> None:
    """Writes images of red cells on a noisy ground, of the size of a small photo."""
    for number in range(count):
        rng = np.random.default_rng(number)
        image = np.full((480, 640, 3), (205, 215, 225), np.uint8)
        for _ in range(14):
            center, axes = rng.integers(0, (640, 480)).tolist(), rng.integers(35, 60, 2).tolist()
            color = rng.integers((130, 130, 180), (160, 160, 210)).tolist()
            cv2.ellipse(image, center, axes, float(rng.uniform(0, 180)), 0, 360, color, -1)
        image = cv2.GaussianBlur(image, (0, 0), 2).astype(np.float32)
        image += cv2.GaussianBlur(rng.normal(0, 25, image.shape), (0, 0), 1.5)
        cv2.imwrite(str(folder / f"{number:03}.jpg"), image.clip(0, 255).astype(np.uint8))


def our_loader(folder: Folder, batch_size: int, workers: int) -> DataLoader:
    """Makes the training loader of a run."""
    return batch_loader(
        folder,  # type: ignore[arg-type]
        SAMPLE,
        batch_size=batch_size,
        seed=0,
        workers=workers,
        prefetch=PREFETCH,
    )


class PlainImages(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Images, boxes and labels through torchvision's transforms, version 2."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        crops = [
            v2.RandomCrop([int(side * scale) for side in SIZE], pad_if_needed=True)
            for scale in DB.scales
        ]
        self.transform = v2.Compose(
            [
                v2.RandomChoice(crops),
                v2.Resize(SIZE),
                v2.ClampBoundingBoxes(),
                v2.SanitizeBoundingBoxes(),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(JITTER, JITTER, JITTER),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN[::-1].tolist(), STD[::-1].tolist()),
                v2.ToPureTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        data = read_file(str(self.folder.image_path(index)))
        image = tv_tensors.Image(decode_image(data, ImageReadMode.RGB))
        boxes = tv_tensors.BoundingBoxes(
            self.folder.boxes(index), format="XYXY", canvas_size=image.shape[-2:]
        )
        labels = torch.from_numpy(self.folder.labels(index))
        image, target = self.transform(image, {"boxes": boxes, "labels": labels})
        return image, target["boxes"], target["labels"]


def plain_loader(folder: Folder, batch_size: int, workers: int) -> DataLoader:
    """Makes a loader as one would write it with torchvision."""
    images = PlainImages(folder)
    return DataLoader(
        images,
        batch_size,
        sampler=RandomSampler(images, replacement=True, num_samples=10**9),
        num_workers=workers,
        collate_fn=_stacked,
        prefetch_factor=-(-PREFETCH // workers) if workers else None,
    )


def _stacked(rows: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, ...]:
    images, boxes, labels = zip(*rows, strict=True)
    counts = torch.tensor([len(few) for few in boxes])
    return default_collate(images), torch.cat(boxes), torch.cat(labels), counts
