"""The report of an evaluation: a page that needs nothing else, whatever the names in it are."""

import base64
import html.parser
import json
import logging
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.config.errors import UserError
from core.data.coco import CocoDetection
from core.evaluation import html_report, report_plots, report_tiles
from core.evaluation.coco import Metrics, score_results
from core.evaluation.html_report import report_page, write_report
from tests.support.dbs_files import annotation

ATTACK = "<script>alert('x')</script>"
SURROGATE = "caf\udce9"
CATEGORIES = (17, 90, 4)
NAMES = {4: "cat", 17: ATTACK, 90: SURROGATE}
SIZE = 200


def write_dataset(root: Path, images: int = 8) -> CocoDetection:
    """Images with a square of each class, and boxes; the names of classes and files are unkind."""
    files, boxes = [], []
    for number in range(images):
        name = f"{number}<b>&.png"
        files.append({"id": number + 1, "file_name": name, "height": SIZE, "width": SIZE})
        image = np.full((SIZE, SIZE, 3), 90 + 10 * number, np.uint8)
        (root / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
        for place, category in enumerate(CATEGORIES[: 2 + number % 2]):
            box = [10 + 60 * place, 20, 40, 30 + 50 * place]
            area = box[2] * box[3]
            one = annotation(len(boxes) + 1, number + 1, category, box)
            boxes.append(one | {"area": area})
    categories = [{"id": number, "name": NAMES[number]} for number in CATEGORIES]
    content = {"images": files, "annotations": boxes, "categories": categories}
    file = root / "truth.json"
    file.write_text(json.dumps(content))
    return CocoDetection(file, root)


def find_some(dataset: CocoDetection) -> list[dict]:
    """Right detections, one of a wrong class, one that is imprecise, one on background."""
    truth, found = dataset.truth(), []
    for number, (image, label, box) in enumerate(
        zip(truth.images, truth.labels, truth.boxes.tolist(), strict=True)
    ):
        category = int(dataset.category_ids[label])
        if number == 3:
            category = 90 if category != 90 else 17
        if number == 5:
            box[0] += 20
        row = {"image_id": int(dataset.image_ids[image]), "category_id": category}
        found.append({**row, "bbox": box, "score": 0.9 - 0.02 * number})
    found.append({"image_id": 1, "category_id": 4, "bbox": [100, 150, 30, 30], "score": 0.95})
    return found[:-4] + found[-1:]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset, results of an evaluation, and the page about them."""
    root = tmp_path_factory.mktemp("report")
    dataset = write_dataset(root)
    results = find_some(dataset)
    scores = score_results(results, dataset)
    metrics = Metrics(len(dataset), 2.0, scores, results, timing={"network": 1.5, "<i>nms": 0.25})
    path = root / "report.html"
    about = {"config": ATTACK, "split": "validation", "iteration": 1200, "snapshot": SURROGATE}
    write_report(path, metrics, dataset, about, {"db": {"top_k": 100, "note": ATTACK}})
    return dataset, metrics, path


@pytest.fixture
def no_plots(monkeypatch):
    """Pages are made with an empty plot, which takes no time."""
    for name in ("precision_plot", "score_plot"):
        monkeypatch.setattr(html_report.report_plots, name, lambda *arguments: "<svg/>")


class Page(html.parser.HTMLParser):
    """The tags, the texts and the images of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.images, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.links += [values[key] for key in ("href", "src") if key in values]
        if tag == "img":
            kind, content = values["src"].removeprefix("data:").split(";base64,")
            self.images.append((kind, base64.b64decode(content), values["alt"]))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(made):
    return Page(made[2].read_text(encoding="utf-8"))


def test_nothing_comes_from_elsewhere(page, made):
    assert {link.split(":")[0].split("#")[0] for link in page.links} == {"", "data"}
    text = re.sub(r"base64,[\w+/=]+", "", made[2].read_text(encoding="utf-8"))
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert made[2].stat().st_size < 1_500_000


def test_names_are_text(page):
    assert not {"script", "b>", "i"} & set(page.tags)
    assert page.text.count(ATTACK) >= 4  # title, table, confusions, config
    assert "caf\\udce9" in page.text and "0<b>&.png" in page.text and "<i>nms" in page.text
    for kind, content, _ in page.images:
        assert b"<script" not in content.lower(), kind


def test_every_image_opens(page):
    kinds = [kind for kind, *_ in page.images]
    assert kinds.count("image/svg+xml") == 2 + 2 * 3
    tiles = [content for kind, content, _ in page.images if kind == "image/jpeg"]
    assert tiles
    for content in tiles:
        tile = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert tile.shape == (360, 480, 3)


def test_what_is_wrong_is_said(page, made):
    for words in (
        "background",
        "wrong class, of a ",
        "imprecise, IoU 0.33 with a",
        "nothing was detected here",
        "1,200",
        "4.00 (8 in 2.0 s)",
        "1.50 s",
        '"top_k": 100',
    ):
        assert words in page.text, words
    ap = made[1].scores.metrics["AP"]
    assert f"{ap:.3f}" in page.text
    titles = [alt for kind, _, alt in page.images if kind == "image/jpeg"]
    assert titles[0] == "cat 0.95"  # the worst false positive is the first


def test_plots_are_the_same_in_every_call(made):
    dataset, metrics, _ = made
    (matched,) = html_report.find_matches(metrics.results, dataset, [0.5])
    curves = html_report.analysis.curves_by_class({0.5: matched}, 3)[0]
    one, two = (report_plots.score_plot(curves, report_plots.SMALL) for _ in range(2))
    assert one == two and one.startswith("<?xml")


def test_only_images_that_are_shown_are_read(made, monkeypatch):
    dataset, metrics, _ = made
    (matched,) = html_report.find_matches(metrics.results, dataset, [0.5])
    read = []

    def fake(path):
        read.append(path.name)
        return np.zeros((SIZE, SIZE, 3), np.uint8)

    monkeypatch.setattr(report_tiles, "read_image", fake)
    causes = html_report.errors.find_causes(matched)
    tiles = report_tiles.false_positive_tiles(matched, causes, dataset, 0.5)
    assert read == [tile.file_name for tile in tiles]
    assert len(read) == (matched.found < 0).sum() < len(dataset)


def test_an_image_that_is_gone_is_said(made, tmp_path, no_plots):
    dataset, metrics, _ = made
    elsewhere = CocoDetection(dataset.annotation_file, tmp_path)
    about = {"config": "a", "split": "validation", "iteration": None}
    page = Page(report_page(metrics, elsewhere, about, {}))
    assert "the image cannot be read" in page.text
    assert not [kind for kind, *_ in page.images if kind == "image/jpeg"]


def test_nothing_detected_and_nothing_to_find(made, tmp_path, no_plots):
    dataset = made[0]
    about = {"config": "a", "split": "validation", "iteration": None}
    nothing = Metrics(len(dataset), 1.0, score_results([], dataset), [])
    page = Page(report_page(nothing, dataset, about, {}))
    assert "There are none." in page.text and "best F1, from" not in page.text
    content = json.loads(dataset.annotation_file.read_text()) | {"annotations": []}
    (tmp_path / "empty.json").write_text(json.dumps(content))
    empty = CocoDetection(tmp_path / "empty.json", dataset.image_dir)
    results = find_some(dataset)
    page = Page(
        report_page(Metrics(8, 1.0, score_results(results, empty), results), empty, about, {})
    )
    assert "0 of 0 objects" in page.text


def test_the_largest_misses_and_the_highest_false_positives(made):
    dataset, metrics, _ = made
    (matched,) = html_report.find_matches(metrics.results, dataset, [0.5])
    misses = report_tiles.worst_misses(matched, 0.6, 3)
    left = [
        area
        for area, score in zip(matched.object_areas, matched.object_scores, strict=True)
        if score < 0.6
    ]
    assert matched.object_areas[misses].tolist() == sorted(left, reverse=True)[:3]
    wrong = report_tiles.worst_false_positives(matched, 2)
    assert matched.scores[wrong].tolist() == sorted(matched.scores[matched.found < 0])[::-1][:2]


@pytest.mark.parametrize("package", ["jinja2", "matplotlib.style"])
def test_a_missing_package_is_said(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="pip install"):
        html_report.require_report_packages()


def test_confusions_of_many_classes_are_the_most_confused():
    counts = np.zeros((101, 101), int)
    counts[7, 70] = 5
    shown = html_report._confusions(counts, [str(n) for n in range(100)])
    assert {"7", "70"} <= set(shown.names) and len(shown.names) == html_report.CONFUSED_CLASSES
    assert shown.counts[shown.names.index("7"), shown.names.index("70")] == 5
    assert shown.left_out == 70


def test_the_log_says_where_it_is(made, tmp_path, caplog, no_plots):
    caplog.set_level(logging.INFO)
    dataset, metrics, _ = made
    about = {"config": "a", "split": "validation", "iteration": None}
    write_report(tmp_path / "report.html", metrics, dataset, about, {})
    assert f"report: {tmp_path / 'report.html'}" in caplog.text
