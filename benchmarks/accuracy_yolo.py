"""Trains YOLO11n by Ultralytics from scratch for a time, and writes what it detects.

`benchmarks.accuracy` runs this file by the Python of an environment that has Ultralytics; it needs
nothing else of this package. The recipe is Ultralytics' own for images of 640 pixels and a batch of
16, with these differences: nothing is pretrained or downloaded; the time decides on the epochs
(the schedule of the learning rate follows); the validation split is left alone until the end, so
that the time is all training and the last averaged weights are taken; on CPUs it gets all the
cores instead of all but one. Detections are taken as its own validation does (several classes a
box, from a score of 0.001 on, 300 an image).
"""

import argparse
import functools
import json
import platform
import time
from pathlib import Path
from typing import Any

SIDE, BATCH = 640, 16
LOWEST_SCORE, MOST_DETECTIONS = 0.001, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder in YOLO's layout")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    content = compete(options)
    options.out.write_text(json.dumps(content))


def compete(options: argparse.Namespace) -> dict[str, Any]:
    """Trains and detects; returns the content of the JSON file that benchmarks.accuracy reads."""
    import torch
    import ultralytics
    from ultralytics import YOLO
    from ultralytics.data import utils
    from ultralytics.engine import trainer as engine
    from ultralytics.utils import nms

    # Both would download: a font for drawings, and weights to try mixed precision with.
    utils.check_font = lambda *_: None
    engine.check_amp = lambda *_: True
    times: dict[str, float] = {}
    work = {"batch_size": BATCH, "steps": 0}

    def start(trainer: Any) -> None:
        torch.set_num_threads(options.threads)
        times["start"] = time.perf_counter()

    def end_of_epoch(trainer: Any) -> None:
        times["end"] = time.perf_counter()
        work["epochs"] = trainer.epoch + 1

    def start_of_step(trainer: Any) -> None:
        work["steps"] += 1

    network = YOLO("yolo11n.yaml", task="detect")
    network.add_callback("on_train_start", start)
    network.add_callback("on_train_batch_start", start_of_step)
    network.add_callback("on_train_epoch_end", end_of_epoch)
    gpu = options.device.startswith("cuda")
    device = options.device.partition(":")[2] or "0" if gpu else options.device
    network.train(
        data=str(options.data / "data.yaml"),
        time=options.minutes / 60,
        imgsz=SIDE,
        batch=BATCH,
        seed=options.seed,
        device=device,
        workers=options.threads,
        project=str(options.out.parent),
        name="run",
        exist_ok=True,
        pretrained=False,
        amp=gpu,
        plots=False,
        val=False,
    )
    weights = options.out.parent / "run" / "weights" / "last.pt"
    nms.non_max_suppression = functools.partial(nms.non_max_suppression, multi_label=True)
    trained = YOLO(weights)
    return {
        "seconds": times["end"] - times["start"],
        "parameters": sum(each.numel() for each in trained.model.parameters()),
        "work": work,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "ultralytics": ultralytics.__version__,
        },
        "detections": detect(trained, options.data / "images" / "val", device),
    }


def detect(trained: Any, folder: Path, device: str) -> list[dict[str, Any]]:
    """Detects in every image of a folder, whose names are their numbers."""
    found = []
    settings = {"imgsz": SIDE, "conf": LOWEST_SCORE, "max_det": MOST_DETECTIONS, "device": device}
    for path in sorted(folder.iterdir()):
        (result,) = trained.predict(str(path), verbose=False, save=False, **settings)
        boxes = result.boxes
        for (x0, y0, x1, y1), score, label in zip(
            boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True
        ):
            found.append(
                {
                    "image": int(path.stem),
                    "label": int(label),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": score,
                }
            )
    return found


if __name__ == "__main__":
    main()
