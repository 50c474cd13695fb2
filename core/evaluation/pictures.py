"""The pictures of a data set, decoded in worker processes while the network runs."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config.errors import UserError
from ..data.coco import CocoDetection
from ..data.image_memory import shared
from ..data.loader import read_image


class Pictures(Dataset[Tensor]):
    """Pictures as they are: uint8 [h, w, 3], BGR; one that cannot be decoded has no pixels.

    Args:
        dataset: names the files.
    """

    def __init__(self, dataset: CocoDetection) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        image = read_image(self.dataset.image_path(index))
        return shared(np.empty((0, 0, 3), np.uint8) if image is None else image)


def decoded_images(
    dataset: CocoDetection, workers: int, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    """Gives pictures of a data set in order. No global random number is drawn.

    Args:
        dataset: names the files.
        workers: processes that decode ahead; 0 decodes in this one.
        indices: numbers of the pictures.

    Yields:
        uint8 [h, w, 3], BGR.

    Raises:
        UserError: a picture cannot be decoded; figures are of the whole data set or of nothing.
    """
    loader = DataLoader(
        Pictures(dataset),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        sampler=indices,
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # or it would draw from the global one
    )
    for index, picture in zip(indices, loader, strict=True):
        image = picture.numpy()
        if image.size == 0:
            raise UserError(
                f"{dataset.image_path(index)} cannot be decoded; replace it, or take it out of "
                f"{dataset.annotation_file}"
            )
        yield image


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)
