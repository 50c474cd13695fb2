"""The part of YAML that is read, and the rest."""

import pytest

from core.config.errors import UserError
from core.data.formats.yaml_subset import read_yaml

KEYS = ("names", "train", "nc")


def read(tmp_path, text):
    file = tmp_path / "data.yaml"
    file.write_bytes(text.encode())
    return read_yaml(file, KEYS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("names: [a, b]", ["a", "b"]),
        ("names: ['a', \"b\", c d ]  # [", ["a", "b", "c d"]),
        ("names: ['it''s', \"a\\\"b\", 'x, y', 'a # b']", ["it's", 'a"b', "x, y", "a # b"]),
        ("names: [a, b,\n  c,  # comment\nd,\n]", ["a", "b", "c", "d"]),
        ("names: []", []),
        ("names: {0: a, 1: 'b: c'}", {"0": "a", "1": "b: c"}),
        ("names:\n  - a\n  - 'b'\n", ["a", "b"]),
        ("names:\n- a\n-  b\n", ["a", "b"]),
        ("names:\n  # comment\n  0: a\n\n  1: b c # comment\n", {"0": "a", "1": "b c"}),
        ("names:\n  0: driver's seat\n  1: a#b\n", {"0": "driver's seat", "1": "a#b"}),
        ("names: a", "a"),
        ("names: 12", "12"),
        ("names: C:\\data\\images", "C:\\data\\images"),
        ("names: no", "no"),
        ("names:", None),
        ("names: ~", None),
        ("names: null  # nothing", None),
        ("'names': \"\"", ""),
        ("\ufeff---\nnames: a\n...\n", "a"),
        ("names: a\r\nnc: 3\r\n", "a"),
        ("names:\n  0: ä\n", {"0": "ä"}),
    ],
)
def test_values(tmp_path, text, value):
    assert read(tmp_path, text)["names"] == value


def test_other_entries_may_be_anything(tmp_path):
    text = (
        "x: &a {b: [c\ndownload: |\n  names: 0\n  print('['  # {\ny:\n  z:\n    - 1\nnames: [a]\n"
    )
    assert read(tmp_path, text.replace("[c", "[c]}")) == {"names": ["a"]}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("names: [a, b\nnc: 2", 1, "no closing"),
        ("names: [[a], [b]]", 1, "has brackets in it"),
        ("names: [a] b", 1, "there is more after"),
        ("names: {0 a}", 1, "not of the form key: value"),
        ("nc: 1\nnames: &x a", 2, "put texts into quotes"),
        ("names: |\n  a", 2, "in one"),
        ("names: a\n  b", 2, "goes on over two lines"),
        ("names:\n  a:\n    b: c", 2, "entries within entries"),
        ("names:\n  - a\n  b: c", 2, "not of the form key: value"),
        ("names:\n  0: a\n  0: b", 3, "a second '0'"),
        ("names: a\nnames: b", 2, "a second 'names'"),
        ("names:\n  0: 'a", 2, "put texts into quotes"),
        ("names:\n  - a: b", 2, "put texts into quotes"),
        ("  names: a", 1, "belongs to no key"),
        ("names", 1, "not of the form key: value"),
        ("names:a", 1, "not of the form key: value"),
    ],
)
def test_what_is_refused_is_named_with_its_line(tmp_path, text, line, message):
    with pytest.raises(UserError, match=message) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(f"{tmp_path}/data.yaml:{line}: ")
    assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_yaml(tmp_path / "none.yaml", KEYS)
    (tmp_path / "latin.yaml").write_bytes(b"names: [\xe4]")
    with pytest.raises(UserError, match="not UTF-8"):
        read_yaml(tmp_path / "latin.yaml", KEYS)
