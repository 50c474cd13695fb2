"""The comparison of accuracy: equal data and scoring for all, without its trainings."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from itertools import pairwise

import cv2
import pytest
import torch
from numpy.testing import assert_allclose

from benchmarks import accuracy, accuracy_contestants
from benchmarks.accuracy_contestants import Ours, Peer, RunFailed, Task, train_command
from core.checkpoint.run_directory import RunDirectory
from core.cli import exit_codes
from core.config.errors import UserError
from core.config.loading import load_config
from tests.support.awkward_dataset import SIZES, write_awkward_dataset
from tests.support.tiny_training import NAME, write_config

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
MINUTES = ["--minutes", "0.1", "--device", "cpu"]


@pytest.fixture
def data(tmp_path):
    return write_awkward_dataset(tmp_path / "mine")


def task(data, tmp_path, minutes=0.1):
    datasets = {split: accuracy.open_split(data, split) for split in ("train", "val")}
    (tmp_path / "work").mkdir(exist_ok=True)
    return Task(data, datasets, minutes, torch.device("cpu"), 1, tmp_path / "work")


PERFECT = [  # of the val split, without the crowd: image, label, box
    (0, 1, [10, 5, 20, 30]),
    (0, 0, [40, 10, 15, 10]),
    (1, 0, [3, 4, 12.5, 30]),
]


def fake_peer(tmp_path, name, detections, code=0):
    """A peer whose script notes its arguments and writes these detections."""
    rows = [
        {"image": image, "label": label, "bbox": box, "score": 0.9}
        for image, label, box in detections
    ]
    found = {"seconds": 5.5, "parameters": 2_500_000, "work": {"epochs": 3}, "detections": rows}
    found["versions"] = {"fake": "1.0"}
    script = tmp_path / f"{name}.py"
    script.write_text(
        "import json, os, sys\n"
        "arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        f"found = json.loads({json.dumps(found)!r})\n"
        "found['versions'] |= {'arguments': arguments, 'offline': os.environ['YOLO_OFFLINE']}\n"
        "open(arguments['--out'], 'w').write(json.dumps(found))\n"
        f"sys.exit({code})\n"
    )
    return Peer(name, sys.executable, [str(script)])


def test_a_split_in_yolos_layout(data, tmp_path):
    out = tmp_path / "yolo"
    for split in ("train", "val"):
        accuracy_contestants.write_yolo_split(accuracy.open_split(data, split), out, split)
    lines = [(out / f"labels/train/{i:06d}.txt").read_text().splitlines() for i in range(3)]
    numbers = [[list(map(float, line.split())) for line in each] for each in lines]
    # Labels follow the ids: 2 is 0, and 7 is 1. A crowd is no object.
    assert_allclose(
        numbers[0],
        [
            [1, 20 / 60, 20 / 40, 20 / 60, 30 / 40],
            [0, 47.5 / 60, 15 / 40, 15 / 60, 10 / 40],
        ],
        atol=1e-8,
    )
    assert_allclose(numbers[1], [[0, 9.25 / 30, 19 / 50, 12.5 / 30, 30 / 50]], atol=1e-8)
    assert all(line.split()[0] in "01" for each in lines for line in each) and lines[2] == []
    for index, (size, value) in enumerate(zip(SIZES.values(), (100, 60, 180), strict=True)):
        image = cv2.imread(str(out / "images" / "val" / f"{index:06d}.png"))
        assert image.shape[:2] == size and (image == value).all()
    yaml = (out / "data.yaml").read_text().splitlines()
    assert yaml[:3] == [f'path: "{out}"', 'train: "images/train"', 'val: "images/val"']
    assert yaml[3:] == ["names:", '  0: "small: one"', '  1: "a \\"big\\" one"']


def test_where_links_are_impossible_images_are_copied(data, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(accuracy_contestants.Path, "symlink_to", refuse)
    accuracy_contestants.write_yolo_split(accuracy.open_split(data, "val"), tmp_path, "val")
    copy = tmp_path / "images" / "val" / "000001.png"
    assert not copy.is_symlink() and (cv2.imread(str(copy)) == 60).all()


def test_each_run_is_a_line_and_one_scorer_judges_all(data, tmp_path, monkeypatch, capfd):
    one_class = [row for row in PERFECT if row[1] == 0]
    peers = [
        fake_peer(tmp_path, "perfect", PERFECT),
        fake_peer(tmp_path, "half", one_class),
        fake_peer(tmp_path, "blind", []),
    ]
    monkeypatch.setattr(accuracy, "choose_contestants", lambda *_: peers)
    out = tmp_path / "new" / "lines.jsonl"
    argv = ["--data", str(data), *MINUTES, "--seeds", "4", "2", "--out", str(out), "--threads", "1"]
    assert accuracy.main(argv) == 0
    printed = capfd.readouterr().out
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert printed.startswith(out.read_text())
    # In turn: a machine that slows down does so for all.
    assert [(line["contestant"], line["seed"]) for line in lines] == [
        (name, seed) for seed in (4, 2) for name in ("perfect", "half", "blind")
    ]
    perfect, half, blind = lines[:3]
    assert perfect["AP"] == perfect["AP50"] == pytest.approx(1)
    assert half["AP_by_class"] == {"small: one": pytest.approx(1), 'a "big" one': 0}
    assert half["AP"] == pytest.approx(0.5) and blind["AP"] == 0
    expected = {"minutes": 0.1, "seconds": 5.5, "epochs": 3, "parameters": 2_500_000}
    assert expected.items() <= perfect.items()
    assert perfect["machine"]["cores"] == 1 and perfect["machine"]["torch"] == torch.__version__
    arguments = perfect["versions"]["arguments"]
    assert arguments["--data"] == str(data) and arguments["--seed"] == "4"
    assert (arguments["--minutes"], arguments["--threads"]) == ("0.1", "1")
    assert perfect["versions"]["offline"] == "true"
    table = printed.splitlines()[-4:]
    assert "| half | 0.500 | 0.500 | 4: 0.500, 2: 0.500 | 0.1 | 2.5 M |" in table
    accuracy.main([*argv[:-4], "--seeds", "4", "--out", str(out)])
    assert len(out.read_text().splitlines()) == 9


def test_a_run_that_fails_does_not_end_the_others(data, tmp_path, monkeypatch, capfd, caplog):
    peers = [
        fake_peer(tmp_path, "broken", PERFECT, code=3),
        fake_peer(tmp_path, "perfect", PERFECT),
    ]
    monkeypatch.setattr(accuracy, "choose_contestants", lambda *_: peers)
    assert accuracy.main(["--data", str(data), *MINUTES, "--seeds", "0"]) == 1
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    assert json.loads(line)["contestant"] == "perfect"
    (error,) = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert error.startswith("error: broken, seed 0: ") and error.endswith("exit code 3")


def test_a_peer_with_a_layout_of_its_own_gets_it(data, tmp_path):
    peer = fake_peer(tmp_path, "yolo", PERFECT)
    peer = Peer(peer.name, peer.python, peer.script, yolo_layout=True)
    trained = peer.run(0, tmp_path, task(data, tmp_path))
    folder = tmp_path / "yolo"
    assert trained.versions["arguments"]["--data"] == str(folder)
    assert len(list((folder / "labels" / "train").iterdir())) == 3
    assert [row["image_id"] for row in trained.results] == [5, 5, 3]
    assert [row["category_id"] for row in trained.results] == [7, 2, 2]


def leave_results(folder, name, rows, iteration=4):
    """Leaves what a training and an evaluation leave in the folder of a run."""
    run_folder = folder / "cache" / "nnet" / name
    run_folder.mkdir(parents=True)
    (run_folder / f"{name}_{iteration}.pkl").touch()
    results = folder / "results" / name / str(iteration) / "validation"
    results.mkdir(parents=True)
    (results / "results.json").write_text(json.dumps(rows))


def test_a_config_is_trained_as_it_is_on_the_dataset(data, tmp_path, monkeypatch):
    write_config(tmp_path, train_split="other", val_split="another")
    file, folder = str(tmp_path / "configs" / f"{NAME}.json"), tmp_path / "run"
    commands = []

    def run(command, variables=None):
        commands.append(command[1:])
        if len(commands) == 2:
            leave_results(folder, NAME, [{"image_id": 5}])
        return 90.0

    monkeypatch.setattr(accuracy_contestants, "run", run)
    ours = Ours(file)
    trained = ours.run(8, folder, task(data, tmp_path))
    assert ours.name == NAME and trained.results == [{"image_id": 5}]
    assert (trained.seconds, trained.work) == (90, {"steps": 4, "batch_size": 3})
    assert 1000 < trained.parameters < 100_000
    (train, *one), (evaluate, *two) = commands
    assert (train, evaluate) == ("train.py", "evaluate.py") and one[0] == two[0] == file
    for arguments in (one, two):
        overrides = [each for flag, each in pairwise(arguments) if flag == "--set"]
        system = load_config(file, overrides=overrides).system
        assert (system.seed, system.max_iter) == (8, 4)
        assert (system.data_dir, system.dataset_dir) == (str(data.parent), data.name)
        assert (system.train_split, system.val_split) == ("train", "val")
        assert RunDirectory(system.cache_dir, NAME).newest()[1] == 4


@pytest.mark.parametrize("detector", [None, "CenterNet"])
def test_the_config_that_new_writes_is_trained_by_its_command(
    data, tmp_path, monkeypatch, detector
):
    """The command is that of the last line, with the seed and the run's own folders."""
    folder = tmp_path / "run"
    name = f"{detector or 'CornerNet_Squeeze'}-accuracy"
    commands = []

    def new(command, **options):
        assert options["cwd"] == accuracy_contestants.ROOT
        commands.append(command[1:])
        folder.mkdir()
        write_config(folder)
        (folder / "configs" / f"{NAME}.json").rename(folder / "configs" / f"{name}.json")
        return subprocess.CompletedProcess(
            command, 0, f"chosen: this\n\nX=1 cornerkit train {name} --config-dir there\n"
        )

    def run(command, variables=None):
        commands.append(command[1:])
        if len(commands) == 3:
            leave_results(folder, name, [])
        else:
            assert variables == {"X": "1"}
        return 60.0

    monkeypatch.setattr(accuracy_contestants.subprocess, "run", new)
    monkeypatch.setattr(accuracy_contestants, "run", run)
    monkeypatch.setattr(
        accuracy_contestants.models, "build", lambda *_: Namespace(network=torch.nn.Linear(2, 3))
    )
    ours = Ours(detector=detector)
    trained = ours.run(1, folder, task(data, tmp_path, 20.0))
    assert ours.name == (detector or "cornerkit") and trained.parameters == 9
    written, train, evaluate = commands
    given = f"{detector}-accuracy" if detector else "accuracy"
    assert written[:4] == ["-m", "core.cli", "new", given]
    assert written[4:8] == ["--data", str(data), "--minutes", "20"]
    assert train[:6] == ["-m", "core.cli", "train", name, "--config-dir", "there"]
    assert "system.seed=1" in train and f"system.cache_dir={folder / 'cache'}" in train
    assert evaluate[:4] == ["evaluate.py", name, "--config-dir", str(folder / "configs")]


def test_the_command_of_the_last_line():
    words, variables = train_command(
        "a\nOMP_NUM_THREADS=1 B= python train.py X --set 'a.b=[1, 2]'\n\n"
    )
    assert words == [sys.executable, "train.py", "X", "--set", "a.b=[1, 2]"]
    assert variables == {"OMP_NUM_THREADS": "1", "B": ""}
    words, _ = train_command("torchrun --nproc_per_node 2 train.py X")
    assert words[:4] == [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node"]
    for output in ("", "\n", "steps 100", "A=1"):
        with pytest.raises(RunFailed, match="is no command"):
            train_command(output)


def fails(argv, caplog):
    """The one line with which the command ends, and its exit code is 2."""
    with pytest.raises(SystemExit) as end, exit_codes():
        accuracy.main(argv)
    assert end.value.code == 2
    (line,) = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert "\n" not in line
    return line


@pytest.fixture
def without_training(monkeypatch):
    """Fails a test in which a contestant would be trained."""
    monkeypatch.setattr(accuracy, "compete", lambda *_: pytest.fail("trained"))


def test_what_is_missing_is_said_in_a_line(tmp_path, caplog, without_training):
    line = fails(["--data", str(tmp_path / "none"), *MINUTES], caplog)
    assert "none/annotations/instances_train.json; --data names a folder with" in line


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("annotations/instances_val.json", "there is no "),
        ("images/val", "there is no "),
        ("images/train/folder/b.png", "lacks 1 images of its file, such as folder/b.png"),
    ],
)
def test_a_file_that_is_missing_is_named(data, path, said, without_training):
    (data / path).rename(data / "away")
    with pytest.raises(UserError, match=said):
        accuracy.main(["--data", str(data), *MINUTES])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--minutes", "0"], "--minutes 0 must be above 0"),
        (["--threads", "0"], "--threads 0: there are 1 to"),
        (["--threads", "100000"], "cores for this process"),
        (["--work", "{data}"], "is not an empty folder"),
        (["--out", "{data}"], "--out .* cannot be written: Is a directory"),
        (["--config", "CenterNet-shapes", "--config", "CenterNet-shapes"], "have one name"),
        (["--config", "NoSuchConfig"], "there is no config 'NoSuchConfig'"),
        (["--yolo", "{data}/python"], "--yolo .*: No such file"),
        (["--yolo", sys.executable], "--yolo .*: .*ultra_not_there.*`pip install ultralytics`"),
    ],
)
def test_arguments_that_cannot_be_right(data, argv, said, monkeypatch, without_training):
    monkeypatch.setattr(accuracy, "YOLO_IMPORT", "import ultra_not_there")
    argv = [word.format(data=data) for word in argv]
    with pytest.raises(UserError, match=said):
        accuracy.main(["--data", str(data), *MINUTES, *argv])


@pytest.mark.parametrize("change", ["other names", "another number", "no boxes"])
def test_splits_that_do_not_fit_are_refused(data, change, without_training):
    file = data / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    if change == "other names":
        content["categories"][0]["name"] = "other"
    elif change == "another number":
        content["categories"].append({"id": 99, "name": "more"})
    else:
        content["annotations"] = content["annotations"][3:]  # a crowd is no object
    file.write_text(json.dumps(content))
    said = "has no boxes" if change == "no boxes" else "has other categories than"
    with pytest.raises(UserError, match=said):
        accuracy.main(["--data", str(data), *MINUTES])


def names_of(argv, task):
    options = accuracy._parser().parse_args(["--data", "mine", "--minutes", "1", *argv])
    return [each.name for each in accuracy.choose_contestants(options, task)]


def test_the_contestants(data, tmp_path, monkeypatch, caplog):
    common = task(data, tmp_path)
    caplog.set_level("INFO")
    monkeypatch.setattr(Peer, "problem", lambda *_: None)
    everyone = ["cornerkit", "yolo11n", "fasterrcnn_resnet50_fpn"]
    assert names_of([], common) == everyone
    assert names_of(["--ours-only"], common) == ["cornerkit"]
    configs = ["--config", "CenterNet-shapes", "--config", "configs/CornerNet-shapes.json"]
    names = ["CenterNet-shapes", "CornerNet-shapes"]
    assert names_of([*configs, "--ours-only"], common) == names
    detectors = ["--detectors", "CornerNet", "FasterRCNN"]
    assert names_of(detectors, common) == ["CornerNet", "FasterRCNN", *everyone[1:]]
    assert not caplog.records
    monkeypatch.setattr(Peer, "problem", lambda *_: "no module ultralytics")
    assert names_of([], common) == ["cornerkit", "fasterrcnn_resnet50_fpn"]
    (line,) = [each.getMessage() for each in caplog.records]
    assert line.startswith("yolo11n is left out: no module ultralytics") and "--yolo" in line


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_contestants_are_kept_on_the_cores():
    with accuracy._cores(1) as count:
        code = "import os; print(len(os.sched_getaffinity(0)))"
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (count, seen.stdout.strip()) == (1, "1")
    assert os.sched_getaffinity(0) == CORES
    with accuracy._cores(None) as count:
        assert count == len(CORES)
