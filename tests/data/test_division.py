"""The division of a dataset without splits."""

import pytest

from core.data.division import divide


def records(names):
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    annotations = [{"id": 9, "image_id": image["id"]} for image in images]
    return {"images": images, "annotations": annotations, "categories": []}


def names_of(part):
    return [image["file_name"] for image in part["images"]]


def test_every_image_is_on_one_side_with_its_boxes():
    names = [f"photo {number}.jpg" for number in range(1000)]
    training, validation = divide(records(names), 0.2)
    assert sorted(names_of(training) + names_of(validation)) == sorted(names)
    assert 170 < len(names_of(validation)) < 230
    for part in (training, validation):
        owners = [annotation["image_id"] for annotation in part["annotations"]]
        assert owners == [image["id"] for image in part["images"]]


def test_more_images_move_none():
    names = [f"{number}.jpg" for number in range(100)]
    before = set(names_of(divide(records(names[:60]), 0.2)[1]))
    after = set(names_of(divide(records(names), 0.2)[1]))
    assert before == after & set(names[:60])


def test_folders_do_not_count():
    names = [f"{number}.jpg" for number in range(30)]
    for prefix in ("images/", "C:\\x\\"):
        moved = names_of(divide(records([prefix + name for name in names]), 0.3)[1])
        assert moved == [prefix + name for name in names_of(divide(records(names), 0.3)[1])]


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_one_image_is_on_each_side(share):
    parts = divide(records(["a.jpg", "b.jpg", "c.jpg"]), share)
    assert sorted(len(names_of(part)) for part in parts) == [1, 2]


@pytest.mark.parametrize("share", [1e-9, 0.5, 1 - 1e-9])
def test_a_single_image_is_on_both_sides(share):
    for part in divide(records(["a.jpg"]), share):
        assert names_of(part) == ["a.jpg"] and len(part["annotations"]) == 1


def test_ids_may_be_written_in_several_ways():
    given = records([f"{number}.jpg" for number in range(20)])
    for image in given["images"][::2]:
        image["id"] = str(image["id"])
    for annotation in given["annotations"][1::2]:
        annotation["image_id"] = float(annotation["image_id"])
    for part in divide(given, 0.5):
        assert len(part["annotations"]) == len(part["images"])


def test_a_test_split_has_no_annotations():
    parts = divide({**records(["a.jpg", "b.jpg"]), "annotations": None}, 0.5)
    assert [part["annotations"] for part in parts] == [None, None]
