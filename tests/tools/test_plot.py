"""Losses and AP of runs, drawn over each other."""

import json

import cv2
import numpy as np
import pytest

from core.config.errors import UserError
from core.tools import plot
from core.tools.charts import COLORS, Curve, Key, Panel, draw_panels, log_ticks, round_up, ticks
from tests.support.tiny_training import NAME, write_config


def write_log(folder, losses, start=0, **more):
    """Appends a run that goes on after ``start`` to the folder's log."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"start": start}]
    for number, loss in enumerate(losses, start + 1):
        terms = {"heatmap": 0.75 * loss, "offset": 0.25 * loss}
        lines.append({"iteration": number, "loss": loss, "terms": terms})
    lines += [{"iteration": start + len(losses), key: value} for key, value in more.items()]
    with (folder / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return folder


def pixels(image, color):
    return int((image == color).all(axis=-1).sum())


def test_runs_are_drawn_over_each_other(tmp_path, caplog):
    evaluation = {"AP": 0.25, "AP50": 0.5, "AP_small": None}
    runs = [
        write_log(tmp_path / "a" / "first", [9.0, 5.0, 4.0], evaluation=evaluation),
        write_log(tmp_path / "b" / "second", [8.0, 3.0, 2.0]),
    ]
    out = tmp_path / "new" / "runs.PNG"
    caplog.set_level("INFO")
    assert plot.main([*map(str, runs), "--out", str(out)]) == 0
    assert str(out) in caplog.text
    image = cv2.imread(str(out))
    height, width = image.shape[:2]
    assert width == 1200 and height > 4 * 320 / 2  # loss, heatmap, offset, AP
    for color in COLORS[:2]:
        assert pixels(image, color) > 300
    assert pixels(image, COLORS[2]) == 0
    precision = image[-320:, 600:]  # of the first run alone
    assert pixels(precision, COLORS[0]) and not pixels(precision, COLORS[1])


def test_what_was_done_again_replaces_what_was_done_before(tmp_path):
    folders = [write_log(tmp_path / name, [5.0, 4.0, 3.0]) for name in "ab"]
    write_log(folders[0], [900.0, 800.0], start=3)
    for folder in folders:
        write_log(folder, [2.0, 1.0], start=3)
        assert plot.main([str(folder), "--out", str(folder / "out.png")]) == 0
    drawn = [cv2.imread(str(folder / "out.png"))[60:] for folder in folders]  # below the names
    np.testing.assert_array_equal(*drawn)


def test_a_run_is_a_config_a_folder_or_a_log(tmp_path, monkeypatch):
    write_config(tmp_path)
    folder = write_log(tmp_path / "cache" / "nnet" / NAME, [1.0])
    log = folder / "log.jsonl"
    for word in (folder, log, tmp_path / "configs" / f"{NAME}.json"):
        assert plot.find_log(str(word)) == log
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"CornerNet_Squeeze/log\.jsonl; train it first"):
        plot.find_log("CornerNet_Squeeze")


def test_mistakes_have_one_line(tmp_path):
    def message(*words):
        with pytest.raises(UserError) as error:
            plot.main(list(map(str, words)))
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


def test_ticks_are_round():
    assert ticks(0, 240) == [0, 50, 100, 150, 200]
    assert ticks(0.21, 0.8) == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert ticks(-0.1, 0.1) == [-0.1, -0.05, 0, 0.05, 0.1]
    assert log_ticks(1.8, 13) == [2, 3, 5, 7, 10]
    assert log_ticks(0.004, 0.3) == pytest.approx([0.005, 0.01, 0.02, 0.05, 0.1, 0.2])
    assert log_ticks(0.02, 3e4) == pytest.approx([0.1, 1, 10, 100, 1000, 10000])
    assert len(log_ticks(1e-12, 1e12)) < 8
    assert [round_up(value) for value in (0.03, 1, 1.01, 7)] == pytest.approx([0.05, 1, 2, 10])


ZERO_AS_OUTLIER = [0.0, *np.geomspace(1, 20, 999)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[3.0], ZERO_AS_OUTLIER, [0.0, 0.0], [-1.0, 1e9], [1e-9, 1e9]])
@pytest.mark.parametrize("style", ["pale", "line", "dots", "rings"])
def test_any_values_can_be_drawn(tmp_path, values, style):
    curve = Curve(np.arange(1.0, 1 + len(values)), np.array(values), COLORS[0], style)
    draw_panels(tmp_path / "a.png", [Panel("loss", [curve])], [[Key("run", COLORS[0], "line")]])
    image = cv2.imread(str(tmp_path / "a.png"))
    assert image.shape[1] == 600
    assert (image[100:] != 255).sum() > 1000
