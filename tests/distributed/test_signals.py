"""Signals that wait: in which threads and processes; what a training run makes of them is tested
with its loop."""

import os
import signal
import threading

import pytest

from core.distributed import Signals


def test_outside_the_main_thread_signals_are_left_alone():
    before, deaths = signal.getsignal(signal.SIGINT), []

    def body():
        with Signals() as signals:
            signals.hold_worker_deaths()
            deaths.append(signals.worker_death())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert deaths == [None]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_worker_that_gets_the_signal_too_is_quiet(capfd):
    """A Ctrl-C in a terminal reaches the workers, which inherit the handlers."""
    with Signals() as signals:
        worker = os.fork()
        if worker == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(0 if signals.asked is None else 1)
        assert os.waitpid(worker, 0)[1] == 0
    assert capfd.readouterr().err == ""


def test_under_torchrun_a_second_signal_is_held_too(monkeypatch, capfd):
    """To the end of the process: torchrun ends one that takes too long."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append("SIGTERM"))
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.asked == "SIGTERM"
        os.kill(os.getpid(), signal.SIGTERM)  # while it writes its last snapshot
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == []
    assert capfd.readouterr().err == ""
