"""The log of a training run: a progress bar, a JSON-lines file, and TensorBoard."""

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
from ..config.schema import System
from .memory_use import memory_use

logger = logging.getLogger(__name__)

FILE_NAME = "log.jsonl"


@dataclass(frozen=True)
class Step:
    """One step, as it is logged.

    Attributes:
        iteration: number of the step.
        terms: terms of the step's loss.
        learning_rate: learning rate of the step.
        gradient_norm: L2 norm of all gradients together, before they were clipped.
        ended: time at which the next step could begin, by ``time.perf_counter``.
        data_time: seconds in which nothing was computed, because the step's data was not there.
    """

    iteration: int
    terms: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    ended: float
    data_time: float


class RunLog:
    """Reports the steps of a run; a context manager that closes what it opened.

    ``<folder>/log.jsonl`` gets one JSON object a line and is only ever appended to:

    - ``{"start", "device", …}`` whenever a run starts or resumes after ``start`` steps; older lines
      about later steps are then no longer valid (:func:`read_log` leaves them out);
    - ``{"iteration", "loss", "terms", "learning_rate", "gradient_norm", "epoch",
      "seconds_per_step", "data_time", "images_per_second", "memory"}`` every ``display`` steps. The
      loss and the norm are those of that step. The speed is that since the last line, without
      evaluations; ``data_time`` is the time per step, in seconds, in which nothing was computed
      because the data was not there. ``memory`` is from :func:`.memory_use.memory_use`;
    - ``{"iteration", "validation": {"loss", "terms"}}``, null where a term is not finite;
    - ``{"iteration", "evaluation": {"AP", …}, "best", "seconds"}``: COCO's metrics of the
      validation split; ``best`` is true if AP is the highest so far. A run that averages its
      weights adds ``{"weights", "by_weights": {"averaged": {"AP", …}, "raw": {"AP", …}}}``:
      which weights have the metrics of ``evaluation``, and the metrics of both;
    - ``{"iteration", "failed_evaluation": "why it has no metrics", "seconds"}``.

    Args:
        folder: folder of the run; made if it is missing.
        system: settings of the run: last step, images per step, steps between two lines.
        start: number of steps before this start.
        images: number of images in the training split.
        tensorboard: write ``<folder>/tensorboard`` as well.
        header: more entries of the first line, about the run.

    Raises:
        UserError: TensorBoard was asked for and is not installed.
    """

    def __init__(
        self,
        folder: Path,
        system: System,
        *,
        start: int,
        images: int,
        tensorboard: bool = False,
        header: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self._system, self._start, self._images = system, start, images
        self._writer = _tensorboard_writer(folder, start) if tensorboard else None
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        cut_short = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._file, self._unwritten = path.open("a", encoding="utf-8"), False
        if cut_short:
            self._file.write("\n")
        self._write({"start": start, **(header or {})})
        self._open = contextlib.ExitStack()
        self._last_line = (start, time.perf_counter())
        self._data_time = 0.0
        self._shown: dict[str, str] = {}

    def __enter__(self) -> "RunLog":
        self._open.enter_context(logging_redirect_tqdm([logging.getLogger()]))
        self._bar = tqdm(
            initial=self._start,
            total=self._system.max_iter,
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
        with contextlib.suppress(OSError):  # logged when the write failed
            self._file.close()
        if self._writer is not None:
            self._writer.close()

    def step(self, step: Step) -> None:
        """Reports one step."""
        values = {"loss": sum(step.terms.values()), **step.terms}
        self._data_time += step.data_time
        if step.iteration % self._system.display == 0:
            rates, memory = self._rates(step), memory_use()
            self._shown = _rates_as_text(rates, memory)
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
        self._bar.set_postfix({**shown, **self._shown}, refresh=False)
        self._bar.update()

    def _rates(self, step: Step) -> dict[str, float | None]:
        """Computes the entries of a line beside the loss; the time of the next line begins."""
        last, then = self._last_line
        steps = max(1, step.iteration - last)
        each, data_time = (step.ended - then) / steps, self._data_time / steps
        self._last_line, self._data_time = (step.iteration, step.ended), 0.0
        return {
            "learning_rate": step.learning_rate,
            "gradient_norm": _finite(step.gradient_norm),
            "epoch": round(step.iteration * self._system.batch_size / self._images, 4),
            "seconds_per_step": round(each, 6),
            "data_time": round(data_time, 6),
            "images_per_second": round(self._system.batch_size / each, 3),
        }

    def validation(self, iteration: int, terms: Mapping[str, float]) -> None:
        """Reports the loss terms of a validation batch after step ``iteration``."""
        values = {"loss": sum(terms.values()), **terms}
        loss, *finite = map(_finite, values.values())
        record = {"loss": loss, "terms": dict(zip(terms, finite, strict=True))}
        self._write({"iteration": iteration, "validation": record})
        self._scalars("validation", iteration, values)

    def evaluation(
        self,
        iteration: int,
        metrics: Mapping[str, float | None],
        best: bool,
        seconds: float,
        both: tuple[str, Mapping[str, Mapping[str, float | None]]] | None = None,
    ) -> None:
        """Reports COCO's metrics of the validation split after step ``iteration``.

        Args:
            iteration: number of the step.
            metrics: metrics by name, 0 to 1; None if there is no object to find.
            best: True if AP is above that of every earlier evaluation.
            seconds: duration of the evaluation.
            both: in a run that averages its weights, the kind of the weights that have these
                metrics, and the metrics of both kinds.
        """
        record: dict[str, Any] = {"evaluation": dict(metrics), "best": best}
        record["seconds"] = round(seconds, 3)
        self._scalars("evaluation", iteration, metrics)
        if both is not None:
            record["weights"], record["by_weights"] = both
            for kind, values in both[1].items():
                self._scalars(f"evaluation of {kind} weights", iteration, values)
        self._write({"iteration": iteration, **record})

    def failed_evaluation(self, iteration: int, reason: str, seconds: float) -> None:
        """Reports that there are no metrics after step ``iteration``, and why."""
        record = {"failed_evaluation": reason, "seconds": round(seconds, 3)}
        self._write({"iteration": iteration, **record})

    def pause(self, seconds: float) -> None:
        """Leaves the last ``seconds`` out of the speed in the next line."""
        last, then = self._last_line
        self._last_line = (last, then + seconds)

    def _write(self, record: Mapping[str, Any]) -> None:
        """Appends a line; on a full disk it is written together with a later one."""
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


def _rates_as_text(rates: Mapping[str, Any], memory: Mapping[str, int]) -> dict[str, str]:
    """Entries of the progress bar after the loss."""
    shown = {
        "rate": f"{rates['learning_rate']:.3g}",
        "gradient": f"{rates['gradient_norm'] or math.nan:.3g}",
        "images/s": f"{rates['images_per_second']:.4g}",
        "data": f"{rates['data_time'] / rates['seconds_per_step']:.0%}",
    }
    return shown | {kind: f"{size / 2**30:.2f}GiB" for kind, size in memory.items()}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads the lines of a ``log.jsonl``, without those that are not valid after a later start.

    Older logs have, instead of ``data_time``, the part of the time that was ``waiting`` for data;
    their lines get a ``data_time`` too.
    """
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
            continue
        if "waiting" in record and "seconds_per_step" in record:
            record.setdefault("data_time", record["waiting"] * record["seconds_per_step"])
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
