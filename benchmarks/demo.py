"""Makes images, trains, evaluates and draws in a few minutes; each stage is timed.

    python -m benchmarks.demo [--config CornerNet_Squeeze-shapes] [--started SECONDS]

Every stage is a command of the README, run as a user would run it. The last line gives AP, AP50,
the seconds of all stages together, and the folder of the drawings. ``--started`` is the time
(seconds since 1970) from which the total counts, for callers that set up an environment first.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from core.config.loading import load_config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="CornerNet_Squeeze-shapes")
    parser.add_argument("--started", type=float, default=time.time())
    options = parser.parse_args()
    config = load_config(options.config)
    system = config.system
    folder = Path(system.data_dir) / system.dataset_dir
    stages = {
        "images": ["-m", "core.data.shapes", str(folder)],
        "training": ["train.py", config.name],
        "evaluation": ["evaluate.py", config.name, "--split", "validation", "--debug"],
    }
    seconds = {"set-up": time.time() - options.started}
    for stage, arguments in stages.items():
        print(f"\n== {stage}: python {' '.join(arguments)}", flush=True)
        start = time.time()
        code = subprocess.run([sys.executable, *arguments]).returncode
        if code:
            print(f"the stage {stage!r} ended with exit code {code}")
            return code
        seconds[stage] = time.time() - start
    results = Path(system.result_dir) / config.name / str(system.max_iter) / "validation"
    metrics = json.loads((results / "metrics.json").read_text())
    print("\n" + ", ".join(f"{stage} {spent:.0f} s" for stage, spent in seconds.items()))
    print(
        f"AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}, {sum(seconds.values()):.0f} seconds, "
        f"drawings in {results / 'debug'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
