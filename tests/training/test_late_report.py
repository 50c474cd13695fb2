"""Data time in the log, where a GPU still works on the step before."""

import pytest
import torch

from core.training import late_report
from core.training.late_report import LateReport
from tests.support.engine_stand_in import StandInImages, make_batch


class Event:
    """A moment on a GPU, in seconds."""

    def __init__(self, at):
        self.at = at

    def synchronize(self):
        pass

    def elapsed_time(self, later):
        return 1000 * (later.at - self.at)


class Steps:
    """A log that keeps its steps."""

    def __init__(self):
        self.steps = []

    def step(self, step):
        self.steps.append(step)


@pytest.mark.parametrize(
    ("host", "gpu", "waited"),
    [
        ([(0, 2), (2, 5)], [(2, 4), (5, 8)], [2, 1]),  # 1 s of the second wait was hidden
        ([(0, 2), (2, 5)], [(2, 7), (7, 9)], [2, 0]),  # all of it
        ([(0, 2), (6, 7)], [(2, 3), (7, 9)], [2, 1]),  # the GPU had been idle before it
    ],
)
def test_a_wait_counts_while_the_device_has_nothing_to_do(host, gpu, waited, monkeypatch):
    """Seconds: ``host`` from and to which it waits for data, ``gpu`` when the steps ran there."""
    clock, moments = [], [Event(at) for step in gpu for at in step]
    monkeypatch.setattr(LateReport, "_now", lambda self: moments.pop(0))
    monkeypatch.setattr(late_report.time, "perf_counter", lambda: clock.pop(0))
    log = Steps()
    report = LateReport(log, StandInImages(), torch.device("cpu"))
    for number, (start, end) in enumerate(host):
        clock += [start, end, end]
        with report.waiting_for_data():
            pass
        report.step(number, {"map": torch.ones(())}, torch.ones(()), 0.1, make_batch(number).index)
    report.flush()
    assert [step.data_time for step in log.steps] == waited
    assert [step.ended for step in log.steps] == [end for _, end in host]
