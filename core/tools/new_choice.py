"""A config for one's own data, chosen by the data, the minutes and measured speeds."""

from collections.abc import Callable
from dataclasses import dataclass

from ..config.errors import UserError
from .new_data import Summary
from .new_recipe import (
    FINE_TUNING,
    SECTIONS,
    Layout,
    Machine,
    Section,
    choose_layout,
    resize_layout,
    system_section,
)

_RESERVE = 0.02  # fraction of the time that is left over
_END_SECONDS = 3.0  # for the last snapshot, and the end of the processes
_EVALUATED = 2  # sets of weights: the averaged and the raw ones
_SCORING_SECONDS = 0.01  # of COCO's metrics, an image
_EVALUATION_PART, _MOST_EVALUATIONS = 0.05, 5  # of the time, for evaluations while training
_LAST_PART = 0.25  # of the time; a longer evaluation, even one, is left to evaluate.py
_LEAST_STEPS = 20
_FASTER = 1.05  # factor by which several processes must be faster than one

Content = dict[str, Section]  # of a config file


@dataclass(frozen=True)
class Speed:
    """Measured times of a config, in seconds.

    Attributes:
        step: a step of training, the wait for its images included.
        image: detection in one image, in each of the processes at a time.
        start: from the start of the command to the first step, with what the first steps take
            longer than later ones.
    """

    step: float
    image: float
    start: float


# Measures a config in a number of processes; None: it cannot be measured there.
Measure = Callable[[Content, int], Speed | None]


@dataclass(frozen=True)
class Choice:
    """A config, and what it was chosen by.

    Attributes:
        content: the sections of the file.
        layout: input and stride.
        usual: layout that was tried before, with an input of the usual size.
        processes: number of processes that train together.
        speeds: speed of ``usual``, by number of processes.
        speed: speed of the config.
        evaluations: number of evaluations while training.
        seconds: expected duration of training, from the start of the command to its end.
    """

    content: Content
    layout: Layout
    usual: Layout
    processes: int
    speeds: dict[int, Speed]
    speed: Speed
    evaluations: int
    seconds: float

    @property
    def images(self) -> int:
        """Number of images that are trained."""
        system = self.content["system"]
        return int(system["max_iter"] * system["batch_size"])


def choose(
    detector: str, summary: Summary, machine: Machine, minutes: float, measure: Measure
) -> Choice:
    """Chooses a config whose training ends when the time does.

    Given what ``measure`` returns, the result depends on the arguments alone.

    Args:
        detector: a key of :data:`.new_recipe.SECTIONS`.
        summary: the data.
        machine: where the detector is trained.
        minutes: time for training, from the start of the command to its end.
        measure: measures a config, of one step, in a number of processes.

    Raises:
        UserError: the time is too short for a training.
    """
    usual = choose_layout(detector, summary)
    speeds = {}
    for count in machine.process_counts:
        content = make_content(detector, summary, usual, system_section(machine, count, 1, 0))
        measured = measure(content, count)
        if measured is not None:
            speeds[count] = measured
    processes = _fastest(speeds)
    speed = speeds[processes]
    batch_size = machine.recipe.batch_size
    layout = resize_layout(summary, usual, 60 * minutes / speed.step * batch_size)
    if layout != usual:
        trial = system_section(machine, processes, 1, 0)
        measured = measure(make_content(detector, summary, layout, trial), processes)
        if measured is None:
            layout = usual
        else:
            speed = measured
    evaluations, steps, seconds = plan_steps(minutes, speed, summary.validation_images, processes)
    system = system_section(machine, processes, steps, evaluations)
    content = make_content(detector, summary, layout, system)
    return Choice(content, layout, usual, processes, speeds, speed, evaluations, seconds)


def plan_steps(
    minutes: float, speed: Speed, validation_images: int, processes: int
) -> tuple[int, int, float]:
    """Divides the time between steps and evaluations, the last of them after the last step.

    Args:
        minutes: time from the start of the command to its end.
        speed: measured speed.
        validation_images: number of images that each evaluation detects in.
        processes: number of processes that divide them.

    Returns:
        Number of evaluations, number of steps, and the expected seconds of everything together.

    Raises:
        UserError: there is no time for a few steps.
    """
    total = 60 * minutes * (1 - _RESERVE)
    left = total - speed.start - _END_SECONDS
    each = _EVALUATED * validation_images * (speed.image / processes + _SCORING_SECONDS)
    evaluations = min(_MOST_EVALUATIONS, max(1, int(_EVALUATION_PART * left / each)))
    if each > _LAST_PART * left:
        evaluations = 0
    steps = int((left - evaluations * each) / speed.step)
    if steps < _LEAST_STEPS:
        needed = speed.start + _END_SECONDS + 2 * _LEAST_STEPS * speed.step
        raise UserError(
            f"--minutes {minutes:g} is too short: the start takes {speed.start:.0f} s and a step "
            f"{speed.step:.2g} s here; give at least {needed / 60:.2g}"
        )
    if evaluations:
        steps -= steps % evaluations
    seconds = speed.start + _END_SECONDS + steps * speed.step + evaluations * each
    return evaluations, steps, seconds


def make_content(detector: str, summary: Summary, layout: Layout, system: Section) -> Content:
    """Makes the sections of a config around its ``system`` section."""
    db, model = SECTIONS[detector](summary, layout)
    return {"system": {**system, **FINE_TUNING.get(detector, {})}, "db": db, "model": model}


def _fastest(speeds: dict[int, Speed]) -> int:
    """Returns the number of processes with the shortest step; few of them, unless more pay."""
    best = min(speeds)
    for count, speed in sorted(speeds.items()):
        if speed.step * _FASTER < speeds[best].step:
            best = count
    return best
