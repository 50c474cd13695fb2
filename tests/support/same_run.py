"""Differences of two runs that should be the same: log, weights, optimizer; bit for bit."""

import torch

from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.training.log import read_log


def differences(root, name, other):
    """Compares two runs under ``root`` by the names of their configs; a line a difference."""
    return [*_different_losses(root, name, other), *_different_snapshots(root, name, other)]


def _different_losses(root, *names):
    one, other = (_losses(root, name) for name in names)
    for step in sorted({*one, *other}):
        if one.get(step) != other.get(step):
            yield f"step {step}: {one.get(step)} and {other.get(step)}"


def _losses(root, name):
    """Everything in a log that the images and the weights decide, by step."""
    found = {}
    for line in read_log(RunDirectory(root / "cache", name).log):
        values = [line.get(kind) for kind in ("validation", "evaluation", "best", "by_weights")]
        values += [line.get(kind) for kind in ("loss", "terms", "learning_rate", "gradient_norm")]
        found.setdefault(line["iteration"], []).append(values)
    return found


def _different_snapshots(root, *names):
    one, other = (set(RunDirectory(root / "cache", name).iterations()) for name in names)
    if missing := one - other:  # a signal may have left more of them
        yield f"no snapshots of {sorted(missing)}"
    for iteration in sorted(one & other):
        paths = [RunDirectory(root / "cache", name).snapshot(iteration) for name in names]
        if not _equal(*map(checkpoint.read_weights, paths)):
            yield f"weights of step {iteration}"
        if not _equal(*map(_averages, paths)):
            yield f"averaged weights of step {iteration}"
    if one and not missing:
        states = [checkpoint.load_training_state(path) for path in paths]
        if not states[0] or not _equal(*states):
            yield f"training state of step {iteration}"


def _averages(path):
    """Averaged weights of a snapshot, and the number of steps in them; None if it has none."""
    if not checkpoint.has_averaged_weights(path):
        return None
    averages = checkpoint.averaged_path(path)
    checkpoint.require_unaltered(averages)
    return checkpoint.read_weights(averages), checkpoint.read_meta(path).averaged_steps


def _equal(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other
