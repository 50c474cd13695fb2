"""XML files of Pascal VOC: the boxes of one image.

Boxes are read as they are written, as corners in pixels from the left and top edge of the image.
VOC's own files count pixels from 1 and the last one in, so that the edges of their boxes are at
xmin - 1, ymin - 1, xmax and ymax. They are known by ``<database>``, which begins with "The VOC";
labelling tools write other words there, and count from 0.
"""

import math
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ...config.errors import UserError

_SIDES = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """An object: class name, (left, top, width, height) in pixels, and VOC's ``difficult``."""

    name: str
    xywh: tuple[float, float, float, float]
    is_difficult: bool


class VocImage(NamedTuple):
    """What an XML file says about its image.

    Attributes:
        size: height and width in pixels; None if it gives none that can be.
        objects: the objects.
        turned_round: number of boxes whose corners were in the wrong order.
    """

    size: tuple[int, int] | None
    objects: list[VocObject]
    turned_round: int


def read_xml(file: Path) -> VocImage:
    """Reads an XML file.

    Raises:
        UserError: it cannot be read, is not XML (with line and column) or not VOC's, declares
            entities, or an object has no name or no box of finite numbers; file and object are
            named.
    """
    root = _tree(file)
    if root.tag != "annotation":
        raise UserError(f"{file}: not a Pascal VOC file: it has <{root.tag}>, not <annotation>")
    first = 1 if root.findtext("source/database", "").strip().startswith("The VOC") else 0
    objects, turned_round = [], 0
    for number, element in enumerate(root.findall("object"), 1):
        where = f"{file}: object {number}"
        name = element.findtext("name", "").strip()
        if not name:
            raise UserError(f"{where} has no name")
        x0, y0, x1, y1 = _corners(element, f"{where} ({name})")
        turned_round += x0 > x1 or y0 > y1
        left, top = min(x0, x1) - first, min(y0, y1) - first
        xywh = (left, top, max(x0, x1) - left, max(y0, y1) - top)
        is_difficult = element.findtext("difficult", "").strip().lower() in ("1", "true")
        objects.append(VocObject(name, xywh, is_difficult))
    return VocImage(_size(root), objects, turned_round)


def _tree(file: Path) -> Element:
    """Parses a file; refuses a document type, in which entities could grow without end."""
    parser = expat.ParserCreate()
    builder = TreeBuilder()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = lambda *_: _refuse(file)
    try:
        parser.Parse(file.read_bytes(), True)
        root: Element = builder.close()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise UserError(f"{file}:{error.lineno}:{error.offset + 1}: not XML: {reason}") from None
    except (LookupError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: not XML: {error}") from None
    return root


def _refuse(file: Path) -> None:
    raise UserError(f"{file}: has a <!DOCTYPE>, which is not read; take it out")


def _corners(element: Element, where: str) -> tuple[float, float, float, float]:
    box = element.find("bndbox")
    if box is None:
        raise UserError(f"{where} has no <bndbox>; give it xmin, ymin, xmax and ymax in pixels")
    numbers = []
    for side in _SIDES:
        text = box.findtext(side)
        try:
            number = float("" if text is None else text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            given = "no" if text is None else f"{text.strip()[:40]!r} as"
            raise UserError(f"{where} has {given} {side}; it must be a number of pixels")
        numbers.append(number)
    x0, y0, x1, y1 = numbers
    return x0, y0, x1, y1


def _size(root: Element) -> tuple[int, int] | None:
    sides = []
    for side in ("height", "width"):
        text = root.findtext(f"size/{side}", "").strip()
        if not text.isdecimal() or not 0 < int(text[:12]) < 2**31:
            return None
        sides.append(int(text))
    return sides[0], sides[1]
