"""What a training run reports: a progress bar, a JSON-lines file, and TensorBoard."""

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..config.errors import UserError
from .memory_use import memory_use

logger = logging.getLogger(__name__)

FILE_NAME = "log.jsonl"


@dataclass(frozen=True)
class Step:
    """What is reported of a step.

    Attributes:
        iteration: its number.
        terms: of its loss.
        learning_rate: it was made with.
        gradient_norm: the L2 norm of its gradients together, before they were clipped.
        ended: when the next one could begin, by ``time.perf_counter``.
        waited: seconds in which nothing was computed, because its data was not there.
    """

    iteration: int
    terms: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    ended: float
    waited: float


class RunLog:
    """Reports the steps of a run; a context manager that closes what it opened.

    ``<folder>/log.jsonl`` gets one JSON object a line and is only ever appended to:

    - ``{"start", "device", …}`` whenever a run starts or resumes: ``start`` steps were behind it,
      and what older lines say of later steps is void (:func:`read_log` leaves it out);
    - ``{"iteration", "loss", "terms", "learning_rate", "gradient_norm", "epoch",
      "seconds_per_step", "images_per_second", "waiting", "memory"}`` every ``display`` steps. The
      loss and the norm are those of that step; the speed is that since the last line, evaluations
      left out, and ``waiting`` the share of that time spent waiting for data; ``memory`` see
      :func:`core.train.memory_use.memory_use`;
    - ``{"iteration", "validation": {"loss", "terms"}}``, null where a term is not finite;
    - ``{"iteration", "evaluation": {"AP", …}, "best", "seconds"}``: COCO's figures of the
      validation split, and whether AP is the best so far.

    Args:
        folder: of the run; made when missing.
        start: steps behind the run.
        stop: the last step.
        batch_size: pictures a step.
        pictures: number of pictures in the training split.
        display: steps between two lines.
        tensorboard: write ``<folder>/tensorboard`` as well.
        facts: more about the run for its first line.

    Raises:
        UserError: TensorBoard was asked for and is not installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start: int,
        stop: int,
        batch_size: int,
        pictures: int,
        display: int = 1,
        tensorboard: bool = False,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self._batch_size, self._pictures, self._display = batch_size, pictures, display
        self._start, self._stop = start, stop
        self._writer = _tensorboard_writer(folder, start) if tensorboard else None
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        cut_short = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._file, self._unwritten = path.open("a", encoding="utf-8"), False
        if cut_short:
            self._file.write("\n")
        self._write({"start": start, **(facts or {})})
        self._open = contextlib.ExitStack()
        self._last_line = (start, time.perf_counter())
        self._waited = 0.0
        self._words: dict[str, str] = {}

    def __enter__(self) -> "RunLog":
        self._open.enter_context(logging_redirect_tqdm([logging.getLogger()]))
        self._bar = tqdm(
            initial=self._start,
            total=self._stop,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
        )
        self._open.enter_context(self._bar)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()
        with contextlib.suppress(OSError):  # that it is not written was told
            self._file.close()
        if self._writer is not None:
            self._writer.close()

    def step(self, step: Step) -> None:
        """Reports one step."""
        values = {"loss": sum(step.terms.values()), **step.terms}
        self._waited += step.waited
        if step.iteration % self._display == 0:
            rates, memory = self._rates(step), memory_use()
            self._words = _in_words(rates, memory)
            self._write(
                {
                    "iteration": step.iteration,
                    "loss": values["loss"],
                    "terms": dict(step.terms),
                    **rates,
                    "memory": memory,
                }
            )
            self._scalars("training", step.iteration, {**values, **rates})
            self._scalars("memory", step.iteration, memory)
        shown = {name: f"{value:.4g}" for name, value in values.items()}
        self._bar.set_postfix({**shown, **self._words}, refresh=False)
        self._bar.update()

    def _rates(self, step: Step) -> dict[str, float | None]:
        """What a line says of a step beside its loss; the time of the next line begins."""
        last, then = self._last_line
        each = (step.ended - then) / max(1, step.iteration - last)
        waiting = self._waited / (step.ended - then)
        self._last_line, self._waited = (step.iteration, step.ended), 0.0
        return {
            "learning_rate": step.learning_rate,
            "gradient_norm": _finite(step.gradient_norm),
            "epoch": round(step.iteration * self._batch_size / self._pictures, 4),
            "seconds_per_step": round(each, 6),
            "images_per_second": round(self._batch_size / each, 3),
            "waiting": round(waiting, 4),
        }

    def validation(self, iteration: int, terms: Mapping[str, float]) -> None:
        """Reports the loss terms of a validation batch after step ``iteration``."""
        values = {"loss": sum(terms.values()), **terms}
        loss, *finite = map(_finite, values.values())
        record = {"loss": loss, "terms": dict(zip(terms, finite, strict=True))}
        self._write({"iteration": iteration, "validation": record})
        self._scalars("validation", iteration, values)

    def evaluation(
        self, iteration: int, figures: Mapping[str, float | None], best: bool, seconds: float
    ) -> None:
        """Reports COCO's figures of the validation split after step ``iteration``.

        Args:
            iteration: number of the step.
            figures: by name, 0 to 1; None where there is no object to find.
            best: whether AP is above that of every evaluation before.
            seconds: that the evaluation took.
        """
        record = {"evaluation": dict(figures), "best": best, "seconds": round(seconds, 3)}
        self._write({"iteration": iteration, **record})
        self._scalars("evaluation", iteration, figures)

    def pause(self, seconds: float) -> None:
        """Leaves time that just went by out of the speed that the next line tells."""
        last, then = self._last_line
        self._last_line = (last, then + seconds)

    def _write(self, record: Mapping[str, Any]) -> None:
        """Appends a line. What cannot be written, on a full disk, is written with a later line."""
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            if not self._unwritten:
                logger.error("%s: %s; training goes on", self._file.name, error)
            self._unwritten = True

    def _scalars(self, group: str, iteration: int, values: Mapping[str, float | None]) -> None:
        for name, value in values.items():
            if self._writer is not None and value is not None:
                self._writer.add_scalar(f"{group}/{name}", value, iteration)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _in_words(rates: Mapping[str, float | None], memory: Mapping[str, int]) -> dict[str, str]:
    """What the progress bar says of :meth:`RunLog.step` after the loss."""
    words = {
        "rate": f"{rates['learning_rate']:.3g}",
        "gradient": f"{rates['gradient_norm'] or math.nan:.3g}",
        "images/s": f"{rates['images_per_second']:.4g}",
        "waiting": f"{rates['waiting']:.0%}",
    }
    return words | {kind: f"{size / 2**30:.2f}GiB" for kind, size in memory.items()}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``log.jsonl`` that hold, without those that a later start made void."""
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # cut short when the process was killed
            continue
        if not isinstance(record, dict) or not {"start", "iteration"} & set(record):
            continue
        if "start" in record:
            records = [old for old in records if old["iteration"] <= record["start"]]
        else:
            records.append(record)
    return records


def _tensorboard_writer(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard needs the package tensorboard: pip install tensorboard"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
