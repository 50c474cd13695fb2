"""Evaluates a trained detector on a split of its data set.

    python evaluate.py CornerNet_Squeeze                        # newest snapshot, validation split
    python evaluate.py CornerNet --testiter 500000 --suffix multi_scale --reference-scoring
    python evaluate.py CornerNet --snapshot CornerNet_500000.pkl --split testing

Writes results.json and metrics.json into <result_dir>/<config>/<iteration>/<split>/, with --debug
also pictures of detections beside the ground truth.
"""

from core.errors import run
from core.evaluation.run import main

if __name__ == "__main__":
    run(main)
