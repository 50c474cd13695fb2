"""An agent that does not look after its ended processes is killed; every other one lives."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
AGENT = """
import os, subprocess, sys, time
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
if sys.argv[2] == "looks":
    process.wait()
time.sleep(float(sys.argv[3]))
print("ended by itself")
"""
PROCESS = "from core.distributed.agent_watch import watch_agent; watch_agent(0.3)"


def agent(how, seconds, **variables):
    """The exit code and the output of an agent whose process loses the others."""
    names = ("RESTART_COUNT", "MAX_RESTARTS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORCHELASTIC_")}
    environment |= {f"TORCHELASTIC_{name}": variables[name] for name in names if name in variables}
    ended = subprocess.run(
        [sys.executable, "-c", AGENT, PROCESS, how, str(seconds)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return ended.returncode, ended.stdout


def test_one_that_does_not_look_is_killed_with_a_line():
    code, output = agent("is stuck", 30, RESTART_COUNT="2", MAX_RESTARTS="2")
    assert code == -signal.SIGKILL
    assert output.startswith("error: torchrun's agent did not notice in 0.3 s that its process")


@pytest.mark.parametrize(
    "how, variables",
    [
        ("looks", {"RESTART_COUNT": "0", "MAX_RESTARTS": "0"}),
        ("is stuck", {"RESTART_COUNT": "1", "MAX_RESTARTS": "2"}),  # it restarts, later
        ("is stuck", {}),  # it is no agent
    ],
)
def test_others_live(how, variables):
    assert agent(how, 1.5, **variables) == (0, "ended by itself\n")
