"""What a training run reports: a progress bar, a JSON-lines file, and TensorBoard."""

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from core.errors import UserError

FILE_NAME = "log.jsonl"


class RunLog:
    """Reports the steps of a run; a context manager that closes what it opened.

    ``<folder>/log.jsonl`` gets one JSON object a line and is only ever appended to:

    - ``{"start", "device", …}`` whenever a run starts or resumes: ``start`` steps were behind it,
      and what older lines say of later steps is void (:func:`read_log` leaves it out);
    - ``{"iteration", "loss", "terms", "learning_rate", "seconds_per_step", "images_per_second",
      "epoch"}`` every ``display`` steps: the loss of that step, the speed since the last line;
    - ``{"iteration", "validation": {"loss", "terms"}}``, null where a term is not finite.

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
        self._writer = _tensorboard_writer(folder, start) if tensorboard else None
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        cut_short = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._file = path.open("a", encoding="utf-8")
        if cut_short:
            self._file.write("\n")
        self._write({"start": start, **(facts or {})})
        self._bar = tqdm(
            initial=start,
            total=stop,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
        )
        self._redirect = contextlib.ExitStack()
        self._last_line = (start, time.perf_counter())

    def __enter__(self) -> "RunLog":
        self._redirect.enter_context(logging_redirect_tqdm([logging.getLogger()]))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._file.close()
        self._redirect.close()
        if self._writer is not None:
            self._writer.close()

    def step(self, iteration: int, terms: Mapping[str, float], learning_rate: float) -> None:
        """Reports one step: its number, its loss terms and its learning rate."""
        loss = sum(terms.values())
        values = {"loss": loss, **terms}
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()}, refresh=False)
        self._bar.update()
        if iteration % self._display:
            return
        last, then = self._last_line
        self._last_line = (iteration, time.perf_counter())
        seconds = (self._last_line[1] - then) / max(1, iteration - last)
        rates = {
            "learning_rate": learning_rate,
            "seconds_per_step": round(seconds, 6),
            "images_per_second": round(self._batch_size / seconds, 3),
            "epoch": round(iteration * self._batch_size / self._pictures, 4),
        }
        self._write({"iteration": iteration, "loss": loss, "terms": dict(terms), **rates})
        self._scalars("training", iteration, {**values, **rates})

    def validation(self, iteration: int, terms: Mapping[str, float]) -> None:
        """Reports the loss terms of a validation batch after step ``iteration``."""
        values = {"loss": sum(terms.values()), **terms}
        loss, *finite = (v if math.isfinite(v) else None for v in values.values())
        record = {"loss": loss, "terms": dict(zip(terms, finite, strict=True))}
        self._write({"iteration": iteration, "validation": record})
        self._scalars("validation", iteration, values)

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def _scalars(self, group: str, iteration: int, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, iteration)


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
