"""Weights that cannot be used: each ends in one line, whatever is wrong with the file.

The cases are in docs/robustness.md too.
"""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from core.checkpoint.snapshot import read_meta
from core.config.errors import UserError
from core.models.loading import load_detector
from tests.support import tiny_detector

FIRST = "hg.pre.0.conv.weight"


class RunsCode:
    """A pickle of it would run a command when it is read."""

    def __reduce__(self):
        return os.system, ("touch was_run",)


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def npz(_):
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def zipped(_):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.txt", "no weights")
    return file.getvalue()


def changed(change):
    """A file in which one tensor is changed."""
    return lambda weights: saved({**weights, f"module.{FIRST}": change(weights[f"module.{FIRST}"])})


def without(key):
    return lambda weights: saved({name: x for name, x in weights.items() if name != key})


# What a file holds, made from a state dict, and a part of the message.
FILES = {
    "empty": (lambda w: b"", "is cut short, or not a snapshot"),
    "text": (lambda w: b"weights\n" * 9, "does not begin as a file of torch.save"),
    "JSON": (lambda w: b'{"weights": []}', "does not begin as a file of torch.save"),
    "an image": (lambda w: b"\xff\xd8\xff\xe0" * 99, "does not begin as a file of torch.save"),
    "zeros": (lambda w: b"\0" * 5000, "is cut short, or not a snapshot"),
    "its first half": (lambda w: saved(w)[: len(saved(w)) // 2], "is cut short, or not a snapshot"),
    "its first bytes": (lambda w: saved(w)[:10], "is cut short, or not a snapshot"),
    "another archive": (zipped, "is cut short, or not a snapshot"),
    "arrays of NumPy's": (npz, "is cut short, or not a snapshot"),
    "code": (lambda w: pickle.dumps(RunsCode(), 2), "was refused.*could run code"),
    "a whole module": (lambda w: saved(nn.Linear(2, 2)), "was refused.*torch.nn.modules.linear"),
    "arrays": (lambda w: saved({k: v.numpy() for k, v in w.items()}), "was refused.*numpy"),
    "a list": (lambda w: saved([torch.zeros(2)]), "holds no weights"),
    "one tensor": (lambda w: saved(torch.zeros(2)), "holds no weights"),
    "nothing": (lambda w: saved({}), "holds no weights"),
    "numbers": (lambda w: saved({k: 1.0 for k in w}), "holds no weights"),
    "tensors without names": (lambda w: saved(dict(enumerate(w.values()))), "holds no weights"),
    "another network": (
        lambda w: saved({"body.weight": torch.zeros(3)}),
        r"does not fit this network .*missing: hg\.pre.*1 unexpected: body\.weight",
    ),
    "a part is missing": (without(f"module.{FIRST}"), f"1 missing: {FIRST}"),
    "a part too many": (
        lambda w: saved({**w, "module.more": torch.zeros(2)}),
        "does not fit this network .*1 unexpected: more",
    ),
    "another shape": (changed(torch.flatten), "588 instead of 4x3x7x7"),
    "one number": (changed(torch.sum), "scalar instead of 4x3x7x7"),
    "NaN": (changed(lambda x: x * float("nan")), f"NaN or infinite numbers in {FIRST}"),
    "infinity": (changed(lambda x: x / 0), f"NaN or infinite numbers in {FIRST}"),
    "complex numbers": (changed(lambda x: x.to(torch.complex64)), f"plain numbers for {FIRST}"),
    "a sparse tensor": (changed(torch.Tensor.to_sparse), f"plain numbers for {FIRST}"),
    "no numbers": (changed(lambda x: x.to("meta")), f"plain numbers for {FIRST}"),
}
# Entries of a description that replace the right ones, or its text.
DESCRIPTIONS = {
    "no JSON": "{",
    "no dictionary": "[]",
    "nested too deep": "[" * 100_000,
    "no class": {"class_names": []},
    "one name": {"class_names": "disc"},
    "numbers for names": {"class_names": [1, 2]},
    "no checksums": {"sha256": None},
    "a word for a number": {"iteration": "last"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshots")
    tiny_detector.write_config(folder)
    tiny_detector.write_snapshot(folder, 20, ("disc", "ring"))
    return folder


@pytest.fixture(scope="module")
def weights(root):
    return torch.load(root / "cache/nnet/CornerNet-tiny/CornerNet-tiny_20.pkl", weights_only=True)


def message_of(root, snapshot):
    with pytest.raises(UserError) as error:
        load_detector("CornerNet-tiny", snapshot, "cpu", config_dir=root / "configs")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    return error


@pytest.mark.parametrize("kind", FILES)
def test_files(kind, root, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, message = FILES[kind]
    file = tmp_path / "x.pkl"
    file.write_bytes(content(weights))
    message_of(root, file).match(rf"x\.pkl.*{message}")
    assert not (tmp_path / "was_run").exists()


def test_no_file(root, tmp_path):
    message_of(root, tmp_path).match(r"is a folder; name a file of weights in it")
    message_of(root, tmp_path / "x.pkl").match(r"there is no snapshot .*x\.pkl")
    message_of(root, "n" * 300).match(r"^--snapshot nnn.*there is no such file")
    message_of(root, str(tmp_path / ("n" * 300))).match("there is no snapshot")


def test_other_classes_than_the_description_says(root, weights, tmp_path):
    (tmp_path / "x.pkl").write_bytes(saved(weights))
    meta = json.loads((root / "cache/nnet/CornerNet-tiny/CornerNet-tiny_20.json").read_text())
    meta |= {"class_names": ["a", "b", "c"], "sha256": {}}
    (tmp_path / "x.json").write_text(json.dumps(meta))
    found = message_of(root, tmp_path / "x.pkl")
    found.match(
        r"3 classes, iteration 20\): 4 of another shape.*; train\.py --weights FILE fine-tunes"
    )


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_descriptions(kind, root, weights, tmp_path):
    (tmp_path / "x.pkl").write_bytes(saved(weights))
    text, file = DESCRIPTIONS[kind], tmp_path / "x.json"
    if isinstance(text, dict):
        right = (root / "cache/nnet/CornerNet-tiny/CornerNet-tiny_20.json").read_text()
        text = json.dumps(json.loads(right) | text)
    file.write_text(text)
    message_of(root, tmp_path / "x.pkl").match(r"x\.json does not describe a snapshot")


def test_a_description_of_a_later_version(root, weights, tmp_path):
    """Its other entries are passed over."""
    right = (root / "cache/nnet/CornerNet-tiny/CornerNet-tiny_20.json").read_text()
    (tmp_path / "x.json").write_text(json.dumps(json.loads(right) | {"colour": "red"}))
    assert read_meta(tmp_path / "x.pkl").class_names == ("disc", "ring")
