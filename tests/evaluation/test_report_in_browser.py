"""The report in Chromium: opened from the disk, without an error, and not blank."""

import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from core.evaluation.coco import Metrics, score_results
from core.evaluation.html_report import write_report
from tests.evaluation.test_html_report import ATTACK, find_some, write_dataset

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason=f"there is none of {', '.join(BROWSERS)}"),
]


def open_page(path, profile, *more):
    """Opens a file; returns the rendered DOM and the lines of the console."""
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"),
        *("--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}"),
        *more,
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, timeout=180, check=True)
    lines = done.stderr.decode(errors="replace").splitlines()
    return done.stdout.decode(), [line for line in lines if ":CONSOLE" in line]


def test_an_error_would_be_seen(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<p>here</p><script>document.title = 'ran'; missing()</script>")
    dom, console = open_page(page, tmp_path / "profile", "--dump-dom")
    assert "<p>here</p>" in dom
    assert len(console) == 1 and "missing is not defined" in console[0]


def test_the_report_opens(tmp_path):
    dataset = write_dataset(tmp_path)
    results = find_some(dataset)
    metrics = Metrics(len(dataset), 2.0, score_results(results, dataset), results)
    path, shot = tmp_path / "report.html", tmp_path / "report.png"
    about = {"config": ATTACK, "split": "validation", "iteration": 1200}
    write_report(path, metrics, dataset, about, {"db": {"note": ATTACK}})
    more = ("--dump-dom", "--window-size=1200,1000", f"--screenshot={shot}")
    dom, console = open_page(path, tmp_path / "profile", *more)
    assert not console
    assert dom.count("<section") == 7 and dom.count("<figure") > 4
    assert "&lt;script&gt;" in dom and not re.search("<script", dom)
    image = cv2.imread(str(shot))
    assert image.shape == (1000, 1200, 3)
    assert (image.reshape(-1, 3) == 255).all(1).mean() > 0.5  # a light page
    plots = image[350:900]
    assert (np.ptp(plots, axis=2) > 60).sum() > 1000  # curves and histograms in their colours
