"""Files of images that are damaged or unusual, made from bytes, and what to expect of each."""

import io
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

SHAPE = (80, 120)
CUT = "is cut short"
DAMAGED = "is damaged: "
UNDECODED = "cannot be decoded"


class Odd(NamedTuple):
    """A file, and its pixels (uint8 [h, w, 3], BGR) or a part of the reason why it has none."""

    name: str
    data: bytes
    expected: np.ndarray | str
    tolerance: int = 0


def photo(seed: int = 0) -> np.ndarray:
    """Makes uint8 [80, 120, 3] with details and without areas of one colour."""
    noise = np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 20, 235, cv2.NORM_MINMAX)


def save(image: np.ndarray | Image.Image, format_: str, **options) -> bytes:
    """Encodes with Pillow, whose encoders have more options than OpenCV's."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """Decodes with Pillow: the first frame, upright, as BGR."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return np.asarray(image)[:, :, ::-1]


def odd_images() -> Iterator[Odd]:
    """Makes the files, a few milliseconds for all of them."""
    yield from _jpeg_files()
    yield from _damaged_files()
    yield from _deep_files()
    yield from _usual_files()


def _jpeg_files() -> Iterator[Odd]:
    whole = save(photo(), "JPEG", quality=90)
    progressive = save(photo(), "JPEG", quality=90, progressive=True)
    scan = whole.find(b"\xff\xda") + 20
    middle, six_tenths = len(whole) // 2, len(whole) * 6 // 10
    image, end = pixels(whole), b"\xff\xd9"
    tail = bytes(len(whole) - six_tenths)
    yield Odd("half.jpg", whole[:middle], CUT)
    yield Odd("no_end.jpg", whole[:-2], CUT)
    yield Odd("header.jpg", whole[:scan], CUT)
    yield Odd("start.jpg", whole[:2], UNDECODED)
    yield Odd("half_progressive.jpg", progressive[: len(progressive) // 2], CUT)
    yield Odd("zero_tail.jpg", whole[:six_tenths] + tail, CUT)
    yield Odd("zero_tail_end.jpg", whole[:six_tenths] + tail[2:] + end, DAMAGED)
    high = save(photo(), "JPEG", quality=100, subsampling=0)
    long = len(high) * 6 // 10
    yield Odd("zero_tail_high.jpg", high[:long] + bytes(len(high) - long), CUT)
    yield Odd("zero_tail_high_end.jpg", high[:long] + bytes(len(high) - long - 2) + end, DAMAGED)
    at = len(progressive) // 2
    zeros = bytes(len(progressive) - at - 2)
    yield Odd("zero_tail_progressive.jpg", progressive[:at] + zeros + end, DAMAGED)
    yield Odd("end_inserted.jpg", whole[:middle] + end + whole[middle:], DAMAGED)
    inserted = progressive[: at // 2] + end + progressive[at // 2 :]
    yield Odd("end_inserted_progressive.jpg", inserted, DAMAGED)
    yield Odd("cut_and_ended.jpg", whole[:middle] + end, DAMAGED)
    cmyk = save(Image.fromarray(photo()[:, :, ::-1]).convert("CMYK"), "JPEG", quality=95)
    half = len(cmyk) // 2
    yield Odd("end_inserted_cmyk.jpg", cmyk[:half] + end + cmyk[half:], DAMAGED)
    yield Odd("cmyk.jpg", cmyk, pixels(cmyk), 2)
    yield Odd("zeros_after_end.jpg", whole + bytes(4096), image)
    yield Odd("second_image_after_end.jpg", whole + high, image)
    yield Odd("progressive_and_more.jpg", progressive + b"SEFT" * 50, pixels(progressive))
    yield Odd("zeros_before_end.jpg", whole[:-2] + bytes(200) + end, image)
    grey = save(Image.fromarray(photo()[:, :, 0]), "JPEG")
    yield Odd("grey.jpg", grey, pixels(grey))
    for name, value in {"black": 0, "mid_grey": 128, "white": 255}.items():
        flat = save(np.full((400, 300, 3), value, np.uint8), "JPEG", optimize=True)
        yield Odd(f"{name}.jpg", flat, np.full((400, 300, 3), value, np.uint8))
    borders = photo()
    borders[:25] = borders[55:] = 0
    for options in ({"optimize": True}, {"progressive": True}):
        data = save(cv2.resize(borders, (1200, 800)), "JPEG", quality=60, **options)
        yield Odd(f"black_borders_{next(iter(options))}.jpg", data, pixels(data))
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("JPEG", "PNG") if orientation == 6 else ("JPEG",):
            data = save(photo(), kind, exif=exif)
            yield Odd(f"exif_{orientation}.{kind.lower()}", data, pixels(data), 1)


def _damaged_files() -> Iterator[Odd]:
    for kind in ("PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = save(photo(), kind)
        yield Odd(f"half.{kind.lower()}", data[: len(data) // 2], "")
    png = save(photo(), "PNG")
    at = len(png) // 2
    yield Odd(
        "zero_tail.png", png[:at] + bytes(len(png) - at), "cut short or damaged: its 120 x 80"
    )
    yield Odd("zeros_inside.png", png[:at] + bytes(50) + png[at + 50 :], "cut short or damaged")
    yield Odd("header.png", png[:60], "cut short or damaged: its 120 x 80 pixels")
    yield Odd("empty.jpg", b"", "cannot be decoded: it is empty")
    yield Odd("page.jpg", b"\n<!DOCTYPE html><html>Not found</html>", "perhaps a web page")
    yield Odd("text.jpg", b"no image", "cannot be decoded: it is no known image")
    yield Odd("zeros.png", bytes(5000), UNDECODED)
    yield Odd("._image.jpg", b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ", UNDECODED)
    yield Odd("archive.png", b"PK\x03\x04" + bytes(60), UNDECODED)


def _deep_files() -> Iterator[Odd]:
    """Images of more than 8 bits; the expected pixels run from 0 to 255."""
    grey = np.random.default_rng(1).integers(1000, 5001, SHAPE).astype(np.uint16)
    grey[0, :2] = 1000, 5000
    scaled = np.round((grey - 1000.0) / 4000 * 255).astype(np.uint8)
    expected = np.dstack([scaled] * 3)
    colour = np.dstack([grey, grey[::-1], grey[:, ::-1]])
    in_colour = np.dstack([scaled, scaled[::-1], scaled[:, ::-1]])
    for suffix in (".png", ".tiff"):
        yield Odd(f"16_bit_grey{suffix}", _encode(suffix, grey), expected)
        yield Odd(f"16_bit{suffix}", _encode(suffix, colour), in_colour)
    alpha = np.dstack([colour, np.full(SHAPE, 9, np.uint16)])
    yield Odd("16_bit_alpha.png", _encode(".png", alpha), in_colour)
    yield Odd("float.tiff", _encode(".tiff", (grey / 65535).astype(np.float32)), expected, 1)
    yield Odd("float_colour.tiff", _encode(".tiff", colour.astype(np.float32)), in_colour)
    yield Odd("double.tiff", _encode(".tiff", grey.astype(np.float64) - 3000), expected)
    yield Odd("int_32.tiff", _encode(".tiff", grey.astype(np.int32) - 3000), expected)
    holes = grey.astype(np.float32)
    holes[5:7, 3] = np.nan, np.inf
    with_holes = expected.copy()
    with_holes[5:7, 3] = 0
    yield Odd("not_finite.tiff", _encode(".tiff", holes), with_holes)
    nothing = _encode(".tiff", np.full(SHAPE, np.nan, np.float32))
    yield Odd("nan.tiff", nothing, np.zeros((*SHAPE, 3), np.uint8))
    flat = _encode(".png", np.full(SHAPE, 700, np.uint16))
    yield Odd("16_bit_flat.png", flat, np.zeros((*SHAPE, 3), np.uint8))


def _usual_files() -> Iterator[Odd]:
    image = Image.fromarray(photo()[:, :, ::-1])
    other = Image.fromarray(photo(5))
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(photo(7)[:, :, 0]))
    yield Odd("png_named.jpg", save(image, "PNG"), photo())
    jpeg = save(image, "JPEG")
    yield Odd("jpeg_named.png", jpeg, pixels(jpeg))
    both: dict = {"save_all": True, "append_images": [other], "duration": 100}
    yield Odd("animated.webp", save(image, "WEBP", lossless=True, **both), photo())
    yield Odd("animated.png", save(image, "PNG", **both), photo())
    yield Odd("pages.tiff", save(image, "TIFF", save_all=True, append_images=[other]), photo())
    gif = save(image.quantize(), "GIF", save_all=True, append_images=[other.quantize()])
    yield Odd("animated.gif", gif, pixels(gif))
    for name, converted in {
        "palette": image.quantize(),
        "two_colours": image.convert("1"),
        "grey_alpha": image.convert("LA"),
        "alpha": alpha,
    }.items():
        data = save(converted, "PNG")
        yield Odd(f"{name}.png", data, pixels(data))
    yield Odd("one_pixel.png", save(image.crop((0, 0, 1, 1)), "PNG"), photo()[:1, :1])
    grey_jpeg = save(Image.new("RGB", (1, 1), (128, 128, 128)), "JPEG")
    yield Odd("one_grey_pixel.jpg", grey_jpeg, np.full((1, 1, 3), 128, np.uint8))


def _encode(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()
