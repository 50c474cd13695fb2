"""Writing a detector as an ONNX file."""

import contextlib
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from ..checkpoint.files import write_together
from ..config.errors import UserError
from .geometry import Sides
from .graph import DetectionGraph
from .manifest import Manifest

OPSET = 18
INPUT = "images"

# Images, and multiples of the steps of height and width, that are traced where they vary.
_IMAGES, _HEIGHT, _WIDTH = 2, 3, 2


def trace(graph: DetectionGraph, manifest: Manifest, batch: int | None) -> ExportedProgram:
    """Records what a detector computes, for every size of image that its description names.

    Args:
        graph: the detector.
        manifest: its description.
        batch: images that go through the network together; None: any number.
    """
    height, height_dim = _example("height", manifest.height, _HEIGHT)
    width, width_dim = _example("width", manifest.width, _WIDTH)
    count, count_dim = (batch, Dim.STATIC) if batch is not None else (_IMAGES, Dim("batch", min=1))
    images = torch.zeros((count, 3, height, width), dtype=getattr(torch, manifest.dtype))
    free = {0: count_dim, 2: height_dim, 3: width_dim}
    with torch.no_grad(), _quiet():
        return torch.export.export(graph, (images,), dynamic_shapes=(free,), strict=False)


def _example(name: str, sides: Sides, multiple: int) -> tuple[int, Any]:
    """A length of a side to trace, and what :mod:`torch.export` is told about the others."""
    if sides.fixed:
        return sides.least, Dim.STATIC
    least, most = ((length + sides.lacking) // sides.step for length in (sides.least, sides.most))
    lengths: Any = sides.step * Dim(f"{name}_steps", min=least, max=most)
    return multiple * sides.step - sides.lacking, (
        lengths - sides.lacking if sides.lacking else lengths
    )


def write_onnx(
    program: ExportedProgram, names: tuple[str, ...], manifest: Manifest, out: Path
) -> None:
    """Translates a program to ONNX, checks it, and writes it with its description.

    Args:
        program: result of :func:`trace`.
        names: names of its outputs.
        manifest: description, for the ``metadata_props``.
        out: the file.

    Raises:
        UserError: the packages are missing, or the file cannot be written.
    """
    onnx = import_package("onnx")
    onnxscript = import_package("onnxscript")
    with _quiet():
        translated = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=list(names),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            custom_translation_table={torch.ops.aten.remainder.Scalar: _remainder(onnxscript)},
        )
    assert translated is not None
    for node in translated.model.graph:
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    translated.model.metadata_props.clear()
    translated.model.metadata_props.update(manifest.as_metadata())
    content = translated.model_proto.SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    try:
        write_together({out: lambda file: file.write(content)})
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what exporters say about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _remainder(onnxscript: ModuleType) -> Callable[..., Any]:
    """Translates the remainder of whole numbers.

    The exporter's own translation fails where the divisor is a side that varies.
    """
    operators = onnxscript.opset18
    return lambda number, divisor: operators.Mod(number, operators.CastLike(divisor, number))


def import_package(name: str) -> ModuleType:
    """Imports a package of the extra ``export``.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f'ONNX files need {name} ({error}): pip install "cornerkit[export]", or '
            "pip install onnx onnxscript onnxruntime"
        ) from None
