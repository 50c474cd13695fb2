"""Annotation files as packed arrays: reading, clipping of boxes, and mistakes that are refused."""

import gc
import json
import logging
import multiprocessing
import os
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from core.config.errors import UserError
from core.data.coco import CocoDetection, repair_boxes
from tests.support.dbs_files import annotation, coco_content, write_coco
from tests.support.own_process import in_own_process, needs_account, own_megabytes


def opened(tmp_path, use_crowd=True, expected=None, **tables):
    content = {key: value for key, value in coco_content(**tables).items() if value is not None}
    file = tmp_path / "instances_train.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return CocoDetection(file, tmp_path / "images", use_crowd, expected)


def test_images_and_boxes_are_those_of_the_file(tmp_path):
    dataset = opened(tmp_path)
    assert len(dataset) == 3
    assert dataset.class_names == ("person", "cat", "toothbrush")
    assert_array_equal(dataset.category_ids, [-4, 17, 90])
    assert_array_equal(dataset.image_ids, [30, 7, 2])
    assert_array_equal(dataset.sizes, [(40, 60), (50, 50), (30, 80)])
    assert dataset.image_path(1) == tmp_path / "images" / "sub" / "seven.jpg"
    assert dataset.image_path(2) == tmp_path / "images" / "zwei-ü.jpg"
    assert_array_equal(dataset.boxes(0), [(0, 0, 60, 40), (30.5, 20, 40.5, 30)])
    assert_array_equal(dataset.labels(0), [0, 2])
    assert_array_equal(dataset.boxes(2), [(10, 5, 30, 15), (1.5, 2.5, 4.75, 6.5)])
    assert_array_equal(dataset.labels(2), [2, 1])
    assert_array_equal(dataset.box_counts(), [2, 0, 2])
    assert (dataset.has_annotations, dataset.repaired, dataset.dropped) == (True, 0, 0)


def test_types_and_shapes_also_without_boxes(tmp_path):
    dataset = opened(tmp_path)
    for index, count in enumerate([2, 0, 2]):
        boxes, labels = dataset.boxes(index), dataset.labels(index)
        assert (boxes.dtype, boxes.shape) == (np.float32, (count, 4))
        assert (labels.dtype, labels.shape) == (np.int64, (count,))
    kinds = (dataset.image_ids, np.int64), (dataset.category_ids, np.int64)
    for array, kind in (*kinds, (dataset.sizes, np.int32)):
        assert array.dtype == kind


def test_boxes_and_labels_are_copies(tmp_path):
    dataset = opened(tmp_path)
    dataset.boxes(0)[:] = -1
    dataset.labels(0)[:] = -1
    assert_array_equal(dataset.boxes(0)[0], (0, 0, 60, 40))
    assert_array_equal(dataset.labels(0), [0, 2])


def test_crowds_are_boxes_only_when_wanted(tmp_path):
    dataset = opened(tmp_path, use_crowd=False)
    assert_array_equal(dataset.labels(2), [2])
    assert_array_equal(dataset.box_counts(), [2, 0, 1])
    assert dataset.dropped == 0


def test_boxes_are_clipped_or_dropped_and_counted(tmp_path, caplog):
    boxes = {
        "partly outside": ([-5, -5, 20, 20], (0, 0, 15, 15)),
        "larger than the image": ([-10, -10, 500, 500], (0, 0, 60, 40)),
        "out by a rounding": ([20, 20, 40.001, 10], (20, 20, 60, 30)),
        "no width": ([5, 5, 0, 10], None),
        "negative height": ([5, 5, 10, -3], None),
        "beside the image": ([70, 5, 10, 10], None),
        "touching the border from outside": ([60, 5, 10, 10], None),
        "not a number": ([float("nan"), 5, 10, 10], None),
        "infinite": ([5, 5, float("inf"), 10], None),
        "too thin for float32": ([50, 5, 1e-9, 10], None),
        "inside": ([1, 2, 3, 4], (1, 2, 4, 6)),
    }
    rows = [annotation(i, 30, 90, given) for i, (given, _) in enumerate(boxes.values())]
    with caplog.at_level(logging.INFO):
        dataset = opened(tmp_path, annotations=rows)
    wanted = np.array([box for _, box in boxes.values() if box is not None], np.float32)
    assert_array_equal(dataset.boxes(0), wanted)
    assert (dataset.repaired, dataset.dropped) == (2, 7)
    lines = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert lines == [
        "3 images (2 without boxes), 4 boxes, 3 classes",
        "2 of 11 boxes are clipped to their image, such as annotation 0 with bbox [-5, -5, 20, 20]",
        "7 of 11 boxes have no extent in their image and are dropped, such as annotation 3 with "
        "bbox [5, 5, 0, 10]",
    ]


def test_repair_leaves_its_input_and_good_boxes_alone():
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 100, (500, 2))
    start = rng.uniform(0, 10, (500, 2))
    xywh = np.concatenate([start, rng.uniform(0.1, 10, (500, 2))], axis=1)
    before = xywh.copy()
    boxes, kept, repaired = repair_boxes(xywh, sizes)
    assert_array_equal(xywh, before)
    assert kept.all() and not repaired.any()
    assert_array_equal(boxes[:, 2:], (xywh[:, :2] + xywh[:, 2:]).astype(np.float32))
    again, kept, _ = repair_boxes(np.empty((0, 4)), np.empty((0, 2)))
    assert again.shape == (0, 4) and kept.shape == (0,)


@pytest.mark.parametrize("categories", [None, 80])
def test_a_test_split_has_images_and_no_boxes(tmp_path, categories):
    tables = {} if categories is None else {"categories": None}
    dataset = opened(tmp_path, annotations=None, expected=categories, **tables)
    assert not dataset.has_annotations
    assert len(dataset) == 3
    assert_array_equal(dataset.box_counts(), [0, 0, 0])
    assert len(dataset.class_names) == (3 if categories is None else 0)


def test_an_empty_list_of_annotations_is_a_list(tmp_path):
    dataset = opened(tmp_path, annotations=[])
    assert dataset.has_annotations
    assert dataset.boxes(0).shape == (0, 4)


def test_the_count_of_categories_must_agree(tmp_path):
    assert len(opened(tmp_path, expected=3).class_names) == 3
    with pytest.raises(
        UserError, match=r"train.json: holds 3 categories and db.categories says 80"
    ):
        opened(tmp_path, expected=80)


IMAGE = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}
MISTAKES = {
    "annotation 8 has category_id 5, which no category": {
        "annotations": [annotation(8, 2, 90, [0, 0, 1, 1]), annotation(8, 2, 5, [0, 0, 1, 1])]
    },
    "annotation 9 has image_id 3, which no image": {
        "annotations": [annotation(9, 3, 90, [0, 0, 1, 1])]
    },
    "annotation 9 has category_id None": {"annotations": [{"id": 9, "image_id": 2}]},
    "annotation number 0 has image_id None": {"annotations": [{}]},
    "annotation 9 has category_id ": {"annotations": [annotation(9, 2, [90], [0, 0, 1, 1])]},
    r"annotation 9 has bbox \[0, 0, 1\]; it must be": {
        "annotations": [annotation(9, 2, 90, [0, 0, 1])]
    },
    "annotation 9 has bbox 'all'": {"annotations": [annotation(9, 2, 90, "all")]},
    r"annotation 9 has bbox \[10": {"annotations": [annotation(9, 2, 90, [10**400, 0, 1, 1])]},
    "image id 1 occurs twice": {"images": [IMAGE, IMAGE], "annotations": []},
    "image number 0 has id 'a', which is no whole number": {"images": [{**IMAGE, "id": "a"}]},
    "image number 0 has id 1180591620717411303424": {"images": [{**IMAGE, "id": 2**70}]},
    "image 1 has no file_name": {"images": [{**IMAGE, "file_name": None}], "annotations": []},
    r"image 1 has height, width \(0, 4\)": {"images": [{**IMAGE, "height": 0}], "annotations": []},
    r"image 1 has height, width \(4, None\)": {"images": [{**IMAGE, "width": None}]},
    "lists no images": {"images": [], "annotations": []},
    "category id 3 occurs twice": {"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]},
    "two categories are named 'a'": {
        "categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "a"}]
    },
    "category 3 has no name": {"categories": [{"id": 3}]},
    '"categories" is missing or empty': {"categories": None, "annotations": []},
    '"images" must list objects': {"images": {"30": "thirty.jpg"}},
    '"annotations" must list objects': {"annotations": [3]},
    'there is no "images" at its top': {"images": None},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_records_that_cannot_be_used_are_named(tmp_path, message):
    with pytest.raises(UserError, match=message) as raised:
        opened(tmp_path, **MISTAKES[message])
    assert "instances_train.json" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "b/../../a.jpg",
        "..",
        "/etc/a.jpg",
        "C:/a.jpg",
        "..\\a.jpg",
        "\\\\host\\a",
        "a\0b",
    ],
)
def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="leaves the folder of the images"):
        opened(tmp_path, images=[{**IMAGE, "file_name": name}], annotations=[])


@pytest.mark.parametrize("name", ["a..b.jpg", "..a.jpg", "b/c.jpg", "b/...jpg", "2:3.jpg"])
def test_a_file_name_with_dots_inside_is_kept(tmp_path, name):
    dataset = opened(tmp_path, images=[{**IMAGE, "file_name": name}], annotations=[])
    assert dataset.image_path(0) == tmp_path / "images" / name


def test_broken_files_are_named_with_line_and_column(tmp_path):
    file = tmp_path / "a.json"
    for data, message in {
        b'{"images": [],\n "annotations": [}': r"a\.json:2:18: not JSON: Expecting value",
        b"": r"a\.json:1:1: not JSON",
        b'{"images": "\xff"}': "not UTF-8 text",
        b"[" * 200_000: "a.json",
        b"[1]": 'there is no "images"',
    }.items():
        file.write_bytes(data)
        with pytest.raises(UserError, match=message):
            CocoDetection(file, tmp_path)
    with pytest.raises(UserError, match=r"no annotation file .*b\.json"):
        CocoDetection(tmp_path / "b.json", tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        CocoDetection(tmp_path, tmp_path)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(coco_content()), encoding="utf-8-sig")
    assert len(CocoDetection(file, tmp_path)) == 3


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """100,000 boxes in 12,000 images."""
    rng = np.random.default_rng(0)
    owners, starts = rng.integers(12_000, size=100_000), rng.uniform(0, 400, (100_000, 2))
    content = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640}
            for i in range(12_000)
        ],
        "annotations": [
            annotation(i, int(owner), 1, [*start, 20.0, 30.0])
            for i, (owner, start) in enumerate(zip(owners, starts.tolist(), strict=True))
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    file = tmp_path_factory.mktemp("large") / "instances_train.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return CocoDetection(file, file.parent), owners, starts


def test_every_box_of_a_large_file_belongs_to_its_image(large):
    dataset, owners, starts = large
    assert dataset.box_counts().sum() == 100_000
    for index in range(0, 12_000, 997):
        assert_array_equal(dataset.boxes(index)[:, :2], starts[owners == index].astype(np.float32))


def test_a_large_file_pickles_to_little(large):
    dataset = large[0]
    gc.collect()
    reachable = gc.get_referents(*[v for v in vars(dataset).values() if gc.is_tracked(v)])
    assert len(reachable) < 100  # no object per image or box
    packed = pickle.dumps(dataset)
    copy = pickle.loads(packed)
    assert len(packed) < 32 * 100_000 + 64 * 12_000
    assert_array_equal(copy.boxes(5), dataset.boxes(5))
    assert copy.image_path(11_999) == dataset.image_path(11_999)


def _growth_on_reading(dataset, answer):
    gc.disable()
    dataset.boxes(0), dataset.labels(0), dataset.image_path(0)
    before = own_megabytes(os.getpid())
    for index in range(len(dataset)):
        dataset.boxes(index), dataset.labels(index), dataset.image_path(index)
    answer.put(own_megabytes(os.getpid()) - before)


def _growth_of_a_fork(file):
    fork = multiprocessing.get_context("fork")
    answer = fork.Queue()
    worker = fork.Process(target=_growth_on_reading, args=(CocoDetection(file, "."), answer))
    worker.start()
    grown = answer.get(timeout=60)
    worker.join(60)
    return grown


@needs_account
def test_a_forked_worker_does_not_grow_by_reading(large):
    # As Python objects, 100,000 boxes would be copied into the worker: 30 MB and more.
    assert in_own_process(_growth_of_a_fork, large[0].annotation_file) < 2


@pytest.mark.real_data
def test_the_blood_cell_photos(request):
    root = request.config.rootpath.parent / "shared" / "data" / "bccd"
    if not root.is_dir():
        pytest.skip(f"there is no {root}")
    for split, images, boxes in (("train", 292, 3980), ("val", 72, 906)):
        file = root / "annotations" / f"instances_{split}.json"
        dataset = CocoDetection(file, root / "images" / split)
        content = json.loads(file.read_text())
        assert (len(dataset), dataset.box_counts().sum()) == (images, boxes)
        assert dataset.class_names == ("Platelets", "RBC", "WBC")
        assert (dataset.repaired, dataset.dropped) == (0, 0)
        for index, image in enumerate(content["images"]):
            rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
            xywh = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
            assert_array_equal(dataset.boxes(index)[:, 2:], xywh[:, :2] + xywh[:, 2:])
            assert_array_equal(
                dataset.category_ids[dataset.labels(index)], [row["category_id"] for row in rows]
            )


def test_writing_helper_reads_back(tmp_path):
    dataset = CocoDetection(write_coco(tmp_path), tmp_path / "images" / "train")
    assert all(dataset.image_path(index).is_file() for index in range(len(dataset)))
