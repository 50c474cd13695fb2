"""Times Ultralytics' YOLO11n on an image: for each line of its input, one line with the seconds.

`benchmarks.inference` runs this file by the Python of an environment that has Ultralytics. Its
weights are random, its layers fused, its input as large as the image (sides are multiples of 32),
and the time is that of its own `predict`, from the pixels to the boxes.
"""

import sys
import time


def main() -> None:
    import cv2
    import torch
    from ultralytics import YOLO

    file, threads, device = sys.argv[1:]
    image = cv2.imread(file)
    network = YOLO("yolo11n.yaml", task="detect")
    settings = {"imgsz": max(image.shape[:2]), "device": device, "verbose": False}
    network.predict(image, **settings)
    torch.set_num_threads(int(threads))  # after its own choice
    for _ in sys.stdin:
        start = time.perf_counter()
        network.predict(image, **settings)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
