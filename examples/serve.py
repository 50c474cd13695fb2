"""Serves a detector over HTTP: POST an image file, get its objects as JSON.

pip install '.[serve]'
python examples/serve.py CornerNet_Squeeze-shapes --port 8000
curl --data-binary @photo.jpg 'http://127.0.0.1:8000/detect?threshold=0.5'
"""

import argparse
import asyncio
import contextlib
import queue
import threading
from concurrent.futures import Future

import numpy as np
import uvicorn
from cornerkit import load_detector
from cornerkit.cli import exit_codes
from cornerkit.data.image_sizes import header_of
from cornerkit.data.images import Unreadable, decode_image
from fastapi import FastAPI, HTTPException, Query, Request


class Batcher:
    """Detects in a thread: in up to ``batch`` images, each ``wait`` seconds after the last one."""

    def __init__(self, detector, batch: int, wait: float, waiting: int) -> None:
        self.detector, self.batch, self.wait = detector, batch, wait
        self.jobs: queue.Queue = queue.Queue(waiting)
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, image: np.ndarray) -> Future:
        """Queues an image; the future gets its detections."""
        future: Future = Future()
        try:
            self.jobs.put_nowait((image, future))
        except queue.Full:
            raise HTTPException(503, "too many images are waiting; try again later") from None
        return future

    def _run(self) -> None:
        while True:
            jobs = [self.jobs.get()]
            with contextlib.suppress(queue.Empty):
                while len(jobs) < self.batch:
                    jobs.append(self.jobs.get(timeout=self.wait))
            self._detect([job for job in jobs if job[1].set_running_or_notify_cancel()])

    def _detect(self, jobs: list[tuple[np.ndarray, Future]]) -> None:
        try:
            found = self.detector([image for image, _ in jobs])
            for (_, future), detections in zip(jobs, found, strict=True):
                future.set_result(detections)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0][1].set_exception(error)
            else:  # only the image that it is about shall fail
                for job in jobs:
                    self._detect([job])


def create_app(
    detector, batch: int = 8, wait: float = 0.01, megabytes: int = 20, megapixels: int = 50
) -> FastAPI:
    """Makes the application; larger files and images are answered with 413, no images with 400."""
    app, batcher = FastAPI(title="cornerkit"), Batcher(detector, batch, wait, 8 * batch)

    def decode(data: bytes) -> np.ndarray:
        header = header_of(data)
        if header is not None and header.width * header.height > megapixels * 1_000_000:
            raise HTTPException(413, f"the image has more than {megapixels} megapixels")
        image = decode_image(data)
        if isinstance(image, Unreadable):
            raise HTTPException(413 if image.too_large else 400, f"the image {image.reason}")
        return image

    @app.post("/detect")
    async def detect(request: Request, threshold: float = Query(0.3, ge=0, le=1)) -> dict:
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > megabytes * 1_000_000:
                raise HTTPException(413, f"the file has more than {megabytes} MB")
        image = await asyncio.to_thread(decode, bytes(data))
        found = (await asyncio.wrap_future(batcher.submit(image))).filter(threshold)
        rows = [(name, *row) for name, rows in found.items() for row in rows.tolist()]
        objects = [{"name": name, "score": score, "box": box} for name, *box, score in rows]
        return {"width": image.shape[1], "height": image.shape[0], "objects": objects}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="name of a config, or a .json file")
    parser.add_argument("--snapshot", help="best, last, the number of an iteration, or a file")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    with exit_codes():
        uvicorn.run(create_app(load_detector(options.config, options.snapshot)), port=options.port)
