"""Losses and AP of runs, drawn over each other."""

import importlib
import json
import sys

import cv2
import matplotlib
import numpy as np
import pytest

from core.config.errors import UserError
from core.tools import plot
from core.training.log import read_log
from tests.support.tiny_training import NAME, write_config


def write_log(folder, losses, start=0, **more):
    """Appends a run that goes on after ``start`` to the folder's log."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"start": start}]
    for number, loss in enumerate(losses, start + 1):
        terms = {"heatmap": 0.75 * loss, "offset": 0.25 * loss}
        times = {"waiting": 0.02, "data_time": 0.001}
        lines.append({"iteration": number, "loss": loss, "terms": terms, **times})
    lines += [{"iteration": start + len(losses), key: value} for key, value in more.items()]
    with (folder / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return folder


def draw(*arguments):
    """Runs the command; returns its exit code."""
    return plot.main(list(map(str, arguments)))


def pixels(image, color):
    red, green, blue = bytes.fromhex(color[1:])
    return int((image == (blue, green, red)).all(axis=-1).sum())


def test_runs_are_drawn_over_each_other(tmp_path, caplog):
    evaluation = {"AP": 0.25, "AP50": 0.5, "AP_small": None}
    runs = [
        write_log(tmp_path / "a" / "first", [9.0, 5.0, 4.0], evaluation=evaluation),
        write_log(tmp_path / "b" / "$second$_", [8.0, 3.0, 2.0]),
    ]
    out = tmp_path / "new" / "runs.PNG"
    caplog.set_level("INFO")
    assert draw(*runs, "--out", out) == 0
    assert str(out) in caplog.text
    image = cv2.imread(str(out))
    height, width = image.shape[:2]
    assert width == 1200 and height > 2 * 300  # loss, heatmap, offset, AP
    for color in plot.COLORS[:2]:
        assert pixels(image, color) > 300
    assert pixels(image, plot.COLORS[2]) == 0
    precision = image[-300:, 620:]  # of the first run alone
    assert pixels(precision, plot.COLORS[0]) and not pixels(precision, plot.COLORS[1])


def test_steps_that_were_repeated_replace_those_before(tmp_path):
    folders = [write_log(tmp_path / name, [5.0, 4.0, 3.0]) for name in "ab"]
    write_log(folders[0], [900.0, 800.0], start=3)
    for folder in folders:
        write_log(folder, [2.0, 1.0], start=3)
        assert draw(folder, "--out", folder / "out.png") == 0
    drawn = [cv2.imread(str(folder / "out.png"))[60:] for folder in folders]  # below the names
    np.testing.assert_array_equal(*drawn)


def test_a_log_without_data_time_gives_the_same_page(tmp_path):
    folder = write_log(tmp_path / "run", [5.0, 4.0, 3.0])
    older = tmp_path / "older" / "run" / "log.jsonl"
    older.parent.mkdir(parents=True)
    older.write_text((folder / "log.jsonl").read_text().replace(', "data_time": 0.001', ""))
    drawn = []
    for log in (folder / "log.jsonl", older):
        assert draw(log, "--out", tmp_path / "out.png") == 0
        drawn.append(cv2.imread(str(tmp_path / "out.png")))
    np.testing.assert_array_equal(*drawn)


def test_a_user_s_matplotlib_settings_are_left_out_and_left_alone(tmp_path):
    folder = write_log(tmp_path / "run", [5.0, 4.0, 3.0])
    assert draw(folder, "--out", tmp_path / "a.png") == 0
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "savefig.dpi": 50}):
        before = dict(matplotlib.rcParams)
        assert draw(folder, "--out", tmp_path / "b.png") == 0
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_without_matplotlib_there_is_a_hint(tmp_path, monkeypatch):
    folder = write_log(tmp_path / "run", [1.0])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    importlib.reload(plot)  # importing it needs no matplotlib
    with pytest.raises(UserError, match=r"plots need matplotlib.*pip install matplotlib") as error:
        draw(folder, "--out", tmp_path / "a.png")
    assert "\n" not in str(error.value) and '"cornerkit[plot]"' in str(error.value)
    assert not (tmp_path / "a.png").exists()


def test_a_run_is_a_config_a_folder_or_a_log(tmp_path, monkeypatch):
    write_config(tmp_path)
    folder = write_log(tmp_path / "cache" / "nnet" / NAME, [1.0])
    log = folder / "log.jsonl"
    for name in (folder, log, tmp_path / "configs" / f"{NAME}.json"):
        assert plot.find_log(str(name)) == log
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"CornerNet_Squeeze/log\.jsonl; train it first"):
        plot.find_log("CornerNet_Squeeze")


def test_evaluations_without_metrics_are_counted_and_not_drawn(tmp_path):
    plain = write_log(tmp_path / "plain", [5.0, 4.0])
    nothing = {"evaluation": {"AP": None, "AP50": None}, "failed_evaluation": "broken"}
    run = write_log(tmp_path / "run", [5.0, 4.0], **nothing)
    shapes = []
    for folder in (plain, run):
        assert draw(folder, "--out", tmp_path / "out.png") == 0
        shapes.append(cv2.imread(str(tmp_path / "out.png")).shape)
    assert shapes[0] == shapes[1]  # no panel of AP
    records = read_log(run / "log.jsonl")
    assert plot.run_label(plot.Run("run", records, "")) == "run; failed evaluations: 1"
    records.append({"iteration": 3, "evaluation": {"AP": 0.5}})
    label = "run: best AP 0.500 after step 3; failed evaluations: 1"
    assert plot.run_label(plot.Run("run", records, "")) == label


def test_mistakes_have_one_line(tmp_path):
    def message(*arguments):
        with pytest.raises(UserError) as error:
            draw(*arguments)
        assert "\n" not in str(error.value)
        return str(error.value)

    folder = write_log(tmp_path / "run", [1.0])
    assert "must name a .png" in message(folder, "--out", tmp_path / "a.jpg")
    assert "did you mean 'CornerNet'" in message("CornerNett")
    assert "no log" in message(tmp_path)
    assert "holds no step" in message(write_log(tmp_path / "empty", []))
    other = tmp_path / "results.json.txt"
    other.write_text('[{"image_id": 5}]\n5\n{"a": 1}\n')
    assert "holds no step" in message(other)
    assert not list(tmp_path.glob("*.png"))


def test_runs_are_named_by_where_they_differ(tmp_path):
    def names(*folders):
        return plot._names([tmp_path / folder / "log.jsonl" for folder in folders])

    assert names("cache/nnet/A") == ["A"]
    assert names("cache/nnet/A", "cache/nnet/B") == ["A", "B"]
    assert names("one/nnet/A", "two/nnet/A") == ["one/nnet/A", "two/nnet/A"]
    assert names("A", "A") == ["A", "A"]


def test_a_running_mean_has_its_window_in_steps():
    steps = np.array([10.0, 20, 30, 40, 50, 100])
    values = np.array([8.0, 2, 2, 5, 5, 7])
    np.testing.assert_allclose(plot.running_mean(steps, values, 20), [8, 4, 3, 4, 5, 7])
    np.testing.assert_allclose(plot.running_mean(steps, values, 0), values)
    np.testing.assert_allclose(plot.running_mean(steps, values, 1000)[[0, 2]], [8, 22 / 5])
    np.testing.assert_allclose(plot.running_mean(steps, values, 120)[-1], 17 / 3)


def test_a_window_is_a_round_number_of_steps():
    values = [plot.round_up(value) for value in (0.03, 1, 1.01, 7)]
    assert values == pytest.approx([0.05, 1, 2, 10])


def axes_of(values, **more):
    """The panel of a loss with these values."""
    records = [{"iteration": step, "loss": value} for step, value in enumerate(values, 1)]
    run = plot.Run(
        "run", [*records, *({"iteration": 1, key: more[key]} for key in more)], "#0072B2"
    )
    _, (axes,) = plot._page(1, 1)
    plot._draw_loss(axes, "loss", [run], ("loss",), 10)
    return axes


def test_an_axis_is_logarithmic_where_values_differ_much():
    axes = axes_of([1.0, 1.0, 4.9, 4.9])
    assert axes.get_yscale() == "linear" and axes.get_title(loc="left") == "loss"
    axes = axes_of([1.0, 1.0, 5.0, 5.0])
    assert axes.get_yscale() == "log" and axes.get_title(loc="left") == "loss, logarithmic"
    assert axes.get_ylim() == pytest.approx((1 / 1.1, 5.5))
    ticks = [text.get_text() for text in axes.get_yticklabels()]
    assert {"1", "2", "3", "5"} <= set(ticks)
    assert axes_of([0.0, 0.0, 5.0, 5.0]).get_yscale() == "linear"


def test_single_steps_may_lie_outside_the_axis_and_validation_may_not():
    values = [2.0, 3.0] * 500
    values[700] = 1000.0
    assert axes_of(values).get_ylim()[1] < 200
    low, high = axes_of(values, validation={"loss": 500.0}).get_ylim()
    assert low < 2 and high > 500


ZERO_AS_OUTLIER = [0.0, *np.geomspace(1, 20, 999)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[3.0], ZERO_AS_OUTLIER, [0.0, 0.0], [-1.0, 1e9], [1e-9, 1e9]])
def test_any_values_can_be_drawn(tmp_path, values):
    folder = write_log(tmp_path / "run", values, validation={"loss": values[0]})
    assert draw(folder, "--out", tmp_path / "a.png") == 0
    assert pixels(cv2.imread(str(tmp_path / "a.png")), plot.COLORS[0]) > 100
