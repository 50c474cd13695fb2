"""Trains torchvision's Faster R-CNN (ResNet-50, FPN) from scratch for a time, and detects.

`benchmarks.accuracy` runs it. The recipe: images whose shorter side is 384 pixels, four a step,
half of them mirrored; AdamW, a linear warm-up over the first twentieth of the time and a cosine
down to 0 at its end; batch normalisation that is trained; gradients of a norm up to 10; bfloat16
where the device is fast in it. Anchors, samples and losses are torchvision's defaults.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from core.data.coco import CocoDetection
from core.data.images import load_image
from core.models.device import choose_device, slow_in_bfloat16

SHORTER_SIDE, LONGER_SIDE, BATCH = 384, 640, 4
LEARNING_RATE, WEIGHT_DECAY, WARM_UP, CLIP_NORM = 2e-4, 0.05, 0.05, 10.0
LOWEST_SCORE = 0.001
Sample = tuple[Tensor, dict[str, Tensor]]


class Samples(Dataset[Sample]):
    """Training images float32 [3, H, W], 0 to 1, RGB, with boxes and labels from 1 on.

    Args:
        dataset: the training split.
        seed: seed of the mirroring.
    """

    def __init__(self, dataset: CocoDetection, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        image = read(self.dataset, index)
        boxes = torch.from_numpy(self.dataset.boxes(index))
        if np.random.default_rng((self.seed, epoch, index)).random() < 0.5:
            image = image.flip(-1)
            boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": torch.from_numpy(self.dataset.labels(index)) + 1}


def read(dataset: CocoDetection, index: int) -> Tensor:
    """Reads an image of a split: float32 [3, H, W], 0 to 1, RGB."""
    bgr = load_image(dataset.image_path(index))
    return torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1) / 255


def transposed(samples: list[Sample]) -> tuple[Any, ...]:
    """Collates a batch as torchvision's detectors take it: images, and targets."""
    return tuple(zip(*samples, strict=True))


def batches(images: int, seed: int) -> Iterator[list[tuple[int, int]]]:
    """Yields the (epoch, index) of the images of each step, without end."""
    size = min(BATCH, images)
    epoch = 0
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(images).tolist()
        for start in range(0, images - size + 1, size):
            yield [(epoch, index) for index in order[start : start + size]]
        epoch += 1


def learning_rate(progress: float) -> float:
    """Returns the learning rate after a fraction of the time, 0 to 1."""
    warm = min(1.0, progress / WARM_UP)
    return LEARNING_RATE * warm * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def train(
    network: nn.Module, loader: "DataLoader[Any]", device: torch.device, seconds: float
) -> tuple[int, float]:
    """Trains until the next step would end after the time; returns steps and seconds."""
    weights = [each for each in network.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    network.train()
    start = time.perf_counter()
    longest, steps, now = 0.0, 0, 0.0
    for images, targets in loader:
        optimizer.param_groups[0]["lr"] = learning_rate(now / seconds)
        moved = [{key: value.to(device) for key, value in each.items()} for each in targets]
        with torch.autocast(device.type, torch.bfloat16, enabled=not slow_in_bfloat16(device)):
            terms = network([image.to(device) for image in images], moved)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        nn.utils.clip_grad_norm_(weights, CLIP_NORM)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        steps += 1
        before, now = now, time.perf_counter() - start
        if steps > 1:  # the first one has costs of its own
            longest = max(longest, now - before)
        if now + longest > seconds:
            break
    return steps, now


@torch.no_grad()
def detect(
    network: nn.Module, dataset: CocoDetection, device: torch.device
) -> list[dict[str, Any]]:
    """Detects in every image of a split."""
    network.eval()
    found = []
    for index in range(len(dataset)):
        (result,) = network([read(dataset, index).to(device)])
        for (x0, y0, x1, y1), score, label in zip(
            *(result[key].tolist() for key in ("boxes", "scores", "labels")), strict=True
        ):
            box = [x0, y0, x1 - x0, y1 - y0]
            found.append({"image": index, "label": label - 1, "bbox": box, "score": score})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    splits = {}
    for split in ("train", "val"):
        file = options.data / "annotations" / f"instances_{split}.json"
        splits[split] = CocoDetection(file, options.data / "images" / split, use_crowd=False)
    device = choose_device(options.device)
    network = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=len(splits["train"].class_names) + 1,
        min_size=SHORTER_SIDE,
        max_size=LONGER_SIDE,
        box_score_thresh=LOWEST_SCORE,
    ).to(device)
    loader: DataLoader[Any] = DataLoader(
        Samples(splits["train"], options.seed),
        batch_sampler=batches(len(splits["train"]), options.seed),
        num_workers=min(4, options.threads),
        collate_fn=transposed,
    )
    steps, seconds = train(network, loader, device, options.minutes * 60)
    content = {
        "seconds": seconds,
        "parameters": sum(each.numel() for each in network.parameters() if each.requires_grad),
        "work": {"steps": steps, "batch_size": BATCH},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "detections": detect(network, splits["val"], device),
    }
    options.out.write_text(json.dumps(content))


if __name__ == "__main__":
    main()
