"""Oracles on maps that are wrong in one way: the oracle for it gives back what that cost."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from core import models
from core.config.loading import load_config
from core.data.coco import CocoDetection
from core.evaluation.coco import coco_results, score_results
from core.evaluation.evaluator import evaluate
from core.evaluation.oracles import ORACLES, Oracles, has_oracles
from core.inference.corners import lay_out
from core.inference.requests import CanvasRequest
from core.layers.distribution import VALUES
from core.structures import CentripetalMaps, CornerMaps, GuidedMaps
from tests.support import tiny_models
from tests.support.dbs_files import annotation, write_coco
from tests.support.offset_bins import bins_of, offsets_of
from tests.support.tiny_detector import write_config

CLASSES, IMAGES = 2, 3
PAIRINGS = ("embedding", "centripetal", "guided")  # the last is CentripetalNet's
KINDS = {"embedding": CornerMaps, "centripetal": CentripetalMaps, "guided": GuidedMaps}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images of other sizes, each with six objects of two classes that do not touch."""
    root = tmp_path_factory.mktemp("oracles")
    rng = np.random.default_rng(8)
    images, annotations = [], []
    for number in range(IMAGES):
        height, width = (100 + 9 * number, 124 - 5 * number)
        images.append(
            {"id": 10 - number, "file_name": f"{number}.png", "height": height, "width": width}
        )
        for place in range(6):
            x, y = (
                2 + 38 * (place % 3) + rng.uniform(0, 5),
                2 + 48 * (place // 3) + rng.uniform(0, 5),
            )
            box = [x, y, *rng.uniform(16, 28, 2)]
            annotations.append(annotation(len(annotations) + 1, 10 - number, place % CLASSES, box))
    categories = [{"id": n, "name": f"class {n}"} for n in range(CLASSES)]
    write_coco(root, images=images, annotations=annotations, categories=categories)
    write_config(root)
    return root


@pytest.fixture(scope="module")
def dataset(root):
    return CocoDetection(root / "annotations" / "instances_train.json", root / "images" / "train")


class Maps(nn.Module):
    """A network that knows the truth; ``spoil(maps, rng)`` makes it wrong."""

    def __init__(self, dataset, settings, pairing, spoil):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.views = {}  # by what the network sees of them
        for index, image in enumerate(map(cv2.imread, paths(dataset))):
            for scale in settings.test_scales:
                view = lay_out(image, scale, settings.fit_size, settings.coarsest_stride)
                request = CanvasRequest(view.canvas, False)
                seen = request.batch([request], torch.device("cpu")).numpy().tobytes()
                assert seen not in self.views
                self.views[seen] = index, view
        self.dataset, self.stride, self.pairing, self.spoil = (
            *(dataset, settings.stride, pairing),
            spoil,
        )
        self.rng = np.random.default_rng(1)

    def forward(self, images, **cells):
        index, view = self.views.pop(images[:1].numpy().tobytes())
        assert images.shape[2:] == view.canvas.shape[:2]
        height, width = (-(-side // self.stride) for side in images.shape[2:])
        boxes = self.dataset.boxes(index).astype(np.float64)
        for axis, (side, cells_of) in enumerate(
            ((images.shape[3], width), (images.shape[2], height))
        ):
            part = boxes[:, axis::2] * view.scale[1 - axis] + view.corner[1 - axis]
            boxes[:, axis::2] = part * cells_of / side
        both = [boxes]
        if len(images) == 2:
            both.append(
                np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
            )
        labels = self.dataset.labels(index)
        return [self.spoil(self.perfect(both, labels, height, width), self.rng)]

    def perfect(self, views, labels, height, width):
        kind = KINDS[self.pairing]
        numbers = 1 if kind is CornerMaps else 2  # by which corners are paired
        depths = [CLASSES, CLASSES, numbers, numbers, *[2] * (len(kind._fields) - 4)]
        if kind is CentripetalMaps:
            depths[4:6] = [2 * VALUES] * 2
        assert CLASSES == 2  # of the map of centres, too
        maps = kind(*(torch.zeros(len(views), depth, height, width) for depth in depths))
        for corner in (0, 1):
            heatmap, pairing, offset = maps[corner:6:2]
            heatmap.fill_(-9)
            for view, boxes in enumerate(views):
                for number, box in enumerate(boxes):
                    x, y = box[2 * corner : 2 * corner + 2]
                    cell = (view, slice(None), int(y), int(x))
                    heatmap[view, labels[number], int(y), int(x)] = 0.5 + 2 * corner + 0.1 * number
                    part = torch.tensor([x % 1, y % 1])
                    offset[cell] = bins_of(part) if kind is CentripetalMaps else part
                    half = torch.tensor((box[2:] - box[:2]) / 2)
                    pairing[cell] = 5.0 * number if kind is CornerMaps else half.log().float()
        if kind is CentripetalMaps:
            maps.center_heatmap.fill_(-9)
            for view, boxes in enumerate(views):
                for number, box in enumerate(boxes):
                    x, y = ((box[:2] + box[2:]) / 2).astype(int)
                    sure = 2 - 0.3 * number
                    maps.center_heatmap[view, labels[number], y - 1 : y + 2, x - 1 : x + 2] = sure
        return maps


def paths(dataset):
    return [str(dataset.image_path(index)) for index in range(len(dataset))]


def right(maps, rng):
    return maps


def unpaired(maps, rng):
    """Numbers by which corners are paired that say nothing."""
    for pairing in maps[2:4]:
        pairing.copy_(
            torch.from_numpy(rng.permuted(np.linspace(-9, 9, pairing.numel()))).view_as(pairing)
        )
    return maps


def misplaced(maps, rng):
    in_bins = isinstance(maps, CentripetalMaps)
    for map_ in maps[4:6]:
        offset = offsets_of(map_) if in_bins else map_
        offset = offset + torch.from_numpy(rng.uniform(-0.6, 0.6, offset.shape))
        map_.copy_(bins_of(offset, dim=1) if in_bins else offset)
    return maps


def unpaired_and_misplaced(maps, rng):
    return misplaced(unpaired(maps, rng), rng)


def without_a_corner(maps, rng):
    """The best top-left corner of every view is gone."""
    for heatmap in maps.tl_heatmap:
        heatmap.view(-1)[heatmap.argmax()] = -9
    return maps


def of_other_classes(maps, rng):
    for heatmap in maps[:2]:
        heatmap.copy_(heatmap.flip(1))
    return maps


def far_off(maps, rng):
    """Top-left corners three cells to the right: more than these objects allow."""
    return type(maps)(*(map_.roll(3, 3) if n % 2 == 0 else map_ for n, map_ in enumerate(maps)))


def find(root, dataset, spoil, pairing="embedding", *overrides):
    """What the detector itself finds with that network, as scored, and what oracles find."""
    changes = [] if pairing == "guided" else [f"model.pairing={pairing}"]
    config = load_config("CornerNet-tiny", None, [*changes, *overrides], root / "configs")
    if pairing == "guided":
        config = replace(config, name="CentripetalNet-tiny", model_name="CentripetalNet")
    detector = models.build(config, CLASSES)
    settings = detector.infer.keywords["settings"]
    detector = replace(detector, network=Maps(dataset, settings, pairing, spoil).eval())
    oracles = Oracles(detector, dataset, config)
    return evaluate(oracles.detector, dataset, config), oracles.found


def scores(root, dataset, spoil, pairing="embedding", *overrides):
    """AP of the detector itself and with each oracle, with that network."""
    own, found = find(root, dataset, spoil, pairing, *overrides)
    return own.scores.metrics["AP"], *(
        score_results(coco_results(found[name], dataset), dataset).metrics["AP"] for name in ORACLES
    )


WAYS = {
    "one view": ["db.test_flipped=false"],
    "mirrored": [],
    "scales": ["db.test_scales=[1,1.5]"],
    "fit": ["db.sampling=fit", "db.input_size=[191,255]", "db.output_sizes=[[48,64]]"],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_perfect_maps(root, dataset, pairing, way):
    assert scores(root, dataset, right, pairing, *WAYS[way]) == pytest.approx([1, 1, 1, 1])


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_pair_scores_as_the_detector_scores_it(root, dataset, pairing):
    one_view = ("db.test_flipped=false", "db.num_dets=6")
    own, found = find(root, dataset, right, pairing, *one_view)
    for name in ORACLES:
        results = coco_results(found[name], dataset)
        for key in ("image_id", "category_id", "score", "bbox"):
            values = [np.array([row[key] for row in rows]) for rows in (results, own.results)]
            np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_pairs(root, dataset, pairing):
    own, pairs, offsets, both = scores(root, dataset, unpaired, pairing)
    assert own < 0.5 and offsets < 0.7
    assert (pairs, both) == pytest.approx((1, 1))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_offsets(root, dataset, pairing, way):
    own, pairs, offsets, both = scores(root, dataset, misplaced, pairing, *WAYS[way])
    assert 0.1 < own < 0.85 and pairs < 0.85
    assert (offsets, both) == pytest.approx((1, 1))


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_both(root, dataset, pairing):
    own, pairs, offsets, both = scores(root, dataset, unpaired_and_misplaced, pairing)
    assert max(own, pairs, offsets) < 0.8 and pairs > own
    assert both == pytest.approx(1)


def test_a_corner_that_is_not_there_is_not_made_up(root, dataset):
    found = scores(root, dataset, without_a_corner, "embedding", "db.test_flipped=false")
    recall = 5 / 6  # the best corner of each image is that of its last object, of class 1
    assert found == pytest.approx([(1 + 2 / 3) / 2] * 4, abs=0.01)
    assert abs(found[0] - recall) < 0.01


@pytest.mark.parametrize("spoil", [of_other_classes, far_off])
def test_a_corner_of_another_class_or_place_is_none(root, dataset, spoil):
    own, pairs, offsets, both = scores(root, dataset, spoil)
    assert pairs == both == 0 and max(own, offsets) < 0.1


def test_the_detector_itself_finds_what_it_finds_alone(root, dataset):
    """Its detections do not depend on the oracles, and those come image by image."""
    config = load_config("CornerNet-tiny", None, (), root / "configs")
    torch.manual_seed(3)
    detector = models.build(config, CLASSES)
    for head in (*detector.network.tl_heats, *detector.network.br_heats):
        head[1].weight.data *= 100
    detector.network.eval()
    alone = evaluate(detector, dataset, config).results
    oracles = Oracles(detector, dataset, config)
    beside = evaluate(oracles.detector, dataset, config).results
    assert alone and beside == alone
    assert [len(oracles.found[name]) for name in ORACLES] == [IMAGES] * 3


def test_an_image_without_objects(root, dataset):
    config = load_config("CornerNet-tiny", None, (), root / "configs")
    detector = models.build(config, CLASSES)
    detector.network.eval()
    empty = root / "empty"
    write_coco(
        empty, annotations=[], categories=[{"id": n, "name": f"{n}"} for n in range(CLASSES)]
    )
    nothing = CocoDetection(
        empty / "annotations" / "instances_train.json", empty / "images" / "train"
    )
    oracles = Oracles(detector, nothing, config)
    own = evaluate(oracles.detector, nothing, config).results
    assert [len(found) for found in oracles.found["pairs"]] == [0, 0, 0]
    assert coco_results(oracles.found["offsets"], nothing) == own


def test_detectors_of_corners_have_oracles(root, tmp_path):
    build = {}
    for name in ("CornerNet-shapes", "CornerNet_Squeeze-shapes", "CornerNet_Saccade-shapes"):
        build[name] = models.build(load_config(name), CLASSES)
    for name in tiny_models.TINY:
        tiny_models.write(tmp_path, name)
        build[name] = models.build(load_config(name, None, (), tmp_path / "configs"), CLASSES)
    assert {name for name, detector in build.items() if has_oracles(detector)} == {
        "CornerNet-shapes",
        "CornerNet_Squeeze-shapes",
        tiny_models.LITE,
    }
