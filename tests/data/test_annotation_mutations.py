"""Any annotation file gives boxes inside their images, or an error in one line."""

import json
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config.errors import UserError
from core.data.coco import CocoDetection
from core.data.records import parse_records
from core.data.tables import read_tables
from tests.support.dbs_files import coco_content

FILE = Path("instances_train.json")
TEXT = json.dumps(coco_content())
PLACES = [
    (table, row, field)
    for table, rows in coco_content().items()
    for row, record in enumerate(rows)
    for field in {**record, "iscrowd": 0}
]

NUMBERS = st.one_of(
    st.integers(-100, 100), st.integers(), st.floats(), st.sampled_from([2**31, 2**63, 10**400])
)
ODD = ["true", "False", "", "nan", "-inf", "a\ud800", "\n", "../a.jpg", " 3. ", "1_0", None, True]
SCALARS = st.one_of(
    NUMBERS,
    NUMBERS.map(str),
    st.sampled_from(ODD),
    st.text(st.characters(exclude_categories=()), max_size=3),
)
BOXES = st.lists(SCALARS, min_size=4, max_size=4)
VALUES = st.one_of(SCALARS, SCALARS, BOXES, BOXES, st.lists(SCALARS, max_size=5), st.just({}))
CHANGES = st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=4)
MANY = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def with_changes(changes):
    content = json.loads(TEXT)
    for (table, row, field), value in changes:
        content[table][row][field] = value
    return json.dumps(content).encode()


def opened_or_refused(data):
    """Opens a dataset; returns whether that worked, in which case its boxes are checked."""
    try:
        dataset = CocoDetection(FILE, Path("images"), tables=read_tables(parse_records(data, FILE)))
    except UserError as error:
        assert str(error).startswith(str(FILE)) and len(str(error).splitlines()) == 1
        return False
    for index in range(len(dataset)):
        boxes, height_width = dataset.boxes(index), dataset.sizes[index]
        assert (boxes >= 0).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes <= np.tile(height_width[::-1], 2)).all()
        assert (dataset.labels(index) < len(dataset.class_names)).all()
        dataset.file_name(index)
    truth = dataset.truth()
    assert np.isfinite(truth.areas).all() and (truth.areas > 0).all()
    assert len({name.encode("utf-8") for name in dataset.class_names}) == len(dataset.class_names)
    assert all(len(note.splitlines()) == 1 for note in (*dataset.notes, *dataset.problems))
    return True


@MANY
@given(CHANGES)
def test_changed_values(changes):
    opened_or_refused(with_changes(changes))


@MANY
@given(st.integers(0, len(TEXT)), st.integers(0, 12), st.binary(max_size=8) | st.text().map(ascii))
def test_changed_text(start, length, new):
    data, new = TEXT.encode(), new if isinstance(new, bytes) else new.encode()
    opened_or_refused(data[:start] + new + data[start + length :])


def test_the_mutations_reach_both_ends():
    reached = set()

    @settings(MANY, max_examples=100)
    @given(CHANGES)
    def run(changes):
        reached.add(opened_or_refused(with_changes(changes)))

    run()
    assert reached == {True, False}
