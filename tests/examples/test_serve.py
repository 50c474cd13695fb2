"""The server of examples/: answers, limits, and images of concurrent requests detected together."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from core.models.loading import load_detector
from tests.support.detections import NAMES, found
from tests.support.examples import EXAMPLES, as_core
from tests.support.tiny_detector import write_config, write_snapshot

SERVER: dict = {"__name__": "serve"}
exec(as_core((EXAMPLES / "serve.py").read_text()), SERVER)


class StandIn:
    """Finds in an image one object, whose score is the value of the pixels; keeps the batches."""

    def __init__(self, seconds=0.0):
        self.seconds, self.batches = seconds, []

    def __call__(self, images):
        self.batches.append(len(images))
        time.sleep(self.seconds)
        values = [int(image[0, 0, 0]) for image in images]
        if 13 in values:
            raise RuntimeError("an image of 13s")
        one = found()[:1]
        return [
            type(one)(one.boxes, np.float32([value / 255]), one.labels, NAMES) for value in values
        ]


def png(value, size=(4, 6)):
    return cv2.imencode(".png", np.full((*size, 3), value, np.uint8))[1].tobytes()


def client(detector, **limits):
    app = SERVER["create_app"](detector, **limits)
    return TestClient(app, raise_server_exceptions=False)


def test_an_answer():
    with client(StandIn()) as web:
        answer = web.post("/detect", content=png(204))
        assert answer.status_code == 200
        (row,) = answer.json().pop("objects")
        assert answer.json() | {"objects": 0} == {"width": 6, "height": 4, "objects": 0}
        assert row == {"name": "disc", "score": pytest.approx(0.8), "box": [1, 2, 11, 22]}
        assert web.post("/detect?threshold=0.81", content=png(204)).json()["objects"] == []
        assert web.post("/detect?threshold=2", content=png(204)).status_code == 422


def test_limits_and_bad_images():
    with client(StandIn(), megabytes=1, megapixels=1) as web:
        for content, code, line in (
            (bytes(1_000_001), 413, "the file has more than 1 MB"),
            (png(0, (1001, 1000)), 413, "the image has more than 1 megapixels"),
            (b"no image", 400, "the image cannot be decoded: it is no known image"),
            (b"", 400, "the image cannot be decoded: it is empty"),
            (png(0)[:-20], 400, "the image is cut short or damaged"),
        ):
            answer = web.post("/detect", content=content)
            assert answer.status_code == code and answer.json()["detail"].startswith(line)


def test_what_waits_is_detected_together():
    entered, release = threading.Event(), threading.Event()

    def detector(images):
        entered.set()
        release.wait(10)
        return plain(images)

    plain = StandIn()
    batcher = SERVER["Batcher"](detector, batch=4, wait=0.01, waiting=20)
    first = batcher.submit(np.full((4, 6, 3), 99, np.uint8))
    assert entered.wait(10)
    futures = [batcher.submit(np.full((4, 6, 3), value, np.uint8)) for value in range(10)]
    futures[3].cancel()  # who has hung up
    release.set()
    scores = [future.result(10).scores[0] for future in futures if not future.cancelled()]
    assert scores == [np.float32(value / 255) for value in range(10) if value != 3]
    assert first.result().scores[0] == np.float32(99 / 255)
    assert plain.batches == [1, 3, 4, 2]


def test_concurrent_requests_are_answered_each_with_its_own():
    detector = StandIn(seconds=0.01)
    with client(detector, batch=4) as web, ThreadPoolExecutor(12) as threads:
        values = list(range(100, 124))
        answers = list(threads.map(lambda value: web.post("/detect", content=png(value)), values))
    scores = [answer.json()["objects"][0]["score"] for answer in answers]
    assert scores == pytest.approx([value / 255 for value in values])
    assert sum(detector.batches) == 24 and max(detector.batches) <= 4


def test_a_failure_is_that_of_one_image():
    detector = StandIn(seconds=0.05)
    with client(detector, batch=8, wait=0.2) as web, ThreadPoolExecutor(4) as threads:
        codes = threads.map(
            lambda value: web.post("/detect", content=png(value)).status_code, [200, 13, 201, 202]
        )
        assert list(codes) == [200, 500, 200, 200]
        assert web.post("/detect", content=png(200)).status_code == 200


def test_a_full_queue():
    release = threading.Event()

    def detector(images):
        release.wait(10)
        return [found() for _ in images]

    with client(detector, batch=1) as web, ThreadPoolExecutor(16) as threads:
        answers = [threads.submit(web.post, "/detect", content=png(1)) for _ in range(16)]
        limit = time.monotonic() + 10
        while sum(answer.done() for answer in answers) < 7 and time.monotonic() < limit:
            time.sleep(0.01)
        release.set()
        codes = sorted(answer.result().status_code for answer in answers)
    assert codes == [200] * 9 + [503] * 7  # one is in the network and eight wait


def test_a_detector(tmp_path):
    write_config(tmp_path)
    write_snapshot(tmp_path, 20, NAMES)
    detect = load_detector("CornerNet-tiny", None, "cpu", config_dir=tmp_path / "configs")
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    content = cv2.imencode(".png", image)[1].tobytes()
    with client(detect) as web, ThreadPoolExecutor(3) as threads:
        url = "/detect?threshold=0"
        answers = list(threads.map(lambda _: web.post(url, content=content).json(), range(3)))
    expected = detect(image)
    for answer in answers:
        rows = [row for row in answer["objects"] if row["name"] == "ring"]
        found = np.float32([[*row["box"], row["score"]] for row in rows])
        np.testing.assert_allclose(found.reshape(-1, 5), expected["ring"], atol=1e-4)
        assert len(answer["objects"]) == len(expected) > 0
