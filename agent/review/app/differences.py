"""What is made of pictures for people to look at: thumbnails, difference maps, and where the worst tile is."""

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

TILE_PX = 64
"""As the metric worst_tile_psnr_db has it."""
SCALES_LSB = (4, 16, 64)
"""A difference of so many of 255 levels, in any channel, has the strongest colour of a map."""
_STOPS = ((0, (8, 8, 20)), (0.12, (60, 20, 110)), (0.35, (180, 40, 100)), (0.65, (245, 130, 40)), (1, (255, 250, 190)))
"""Dark where nothing differs; lightness rises throughout, so that it reads without colours too."""


@dataclass(frozen=True)
class Tile:
    """A part of a picture, in its pixels."""

    x: int
    y: int
    width: int
    height: int
    psnr_db: float | None
    """None where nothing differs."""


def thumbnail(file: Path, side_px: int) -> bytes:
    """A WebP no longer than `side_px` a side; kept in memory while the file stays the same."""
    return _thumbnail(file, file.stat().st_mtime_ns, side_px)


@lru_cache(maxsize=2048)
def _thumbnail(file: Path, _: int, side_px: int) -> bytes:
    with Image.open(file) as image:
        image.draft("RGB", (side_px, side_px))
        picture = image.convert("RGB")
    picture.thumbnail((side_px, side_px))
    data = io.BytesIO()
    picture.save(data, format="WEBP", quality=86, method=2)
    return data.getvalue()


def fitting_scale(reference: Path, candidate: Path) -> int:
    """The finest scale that has all but a thousandth of the pixels. Raises ValueError for pictures of two sizes."""
    most = float(numpy.quantile(_levels(reference, candidate), 0.999))
    return next((scale for scale in SCALES_LSB if most <= scale), SCALES_LSB[-1])


def difference_map(reference: Path, candidate: Path, full_lsb: int) -> bytes:
    """A PNG of how far each pixel is from the reference's, in the channel that differs most; see SCALES_LSB."""
    times = reference.stat().st_mtime_ns, candidate.stat().st_mtime_ns
    return _difference_map(reference, candidate, full_lsb, times)


def _levels(reference: Path, candidate: Path) -> Any:
    one, other = _pixels(reference), _pixels(candidate)
    if one.shape != other.shape:
        raise ValueError("the pictures have different sizes")
    return numpy.abs(one - other).max(axis=2)


@lru_cache(maxsize=64)
def _difference_map(reference: Path, candidate: Path, full_lsb: int, _: tuple[int, int]) -> bytes:
    coloured = _colours(full_lsb)[numpy.minimum(_levels(reference, candidate), full_lsb)]
    data = io.BytesIO()
    Image.fromarray(coloured).save(data, format="PNG", compress_level=3)
    return data.getvalue()


def worst_tile(reference: Path, candidate: Path) -> Tile | None:
    """The tile with the lowest PSNR; None where the pictures cannot be compared."""
    one, other = _pixels(reference), _pixels(candidate)
    if one.shape != other.shape:
        return None
    error = ((one - other).astype(numpy.float64) ** 2).mean(axis=2)
    height, width = (min(TILE_PX, side) for side in error.shape)
    sums = numpy.pad(error, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    rows, columns = (numpy.array(_starts(side, tile)) for side, tile in zip(error.shape, (height, width), strict=True))
    r, c = numpy.ix_(rows, columns)
    means = (sums[r + height, c + width] - sums[r, c + width] - sums[r + height, c] + sums[r, c]) / (height * width)
    row, column = numpy.unravel_index(int(means.argmax()), means.shape)
    worst = float(means[row, column])
    psnr_db = None if worst <= 1e-9 else float(10 * numpy.log10(255**2 / worst))
    return Tile(int(columns[column]), int(rows[row]), width, height, psnr_db)


def _starts(length_px: int, tile_px: int) -> list[int]:
    last = length_px - tile_px
    starts = list(range(0, last + 1, tile_px))
    return starts if starts[-1] == last else [*starts, last]


def _pixels(file: Path) -> Any:
    with Image.open(file) as image:
        return numpy.asarray(image.convert("RGB"), dtype=numpy.int16)


@lru_cache(maxsize=len(SCALES_LSB))
def _colours(full_lsb: int) -> Any:
    places = numpy.linspace(0, 1, full_lsb + 1)
    known = [place for place, _ in _STOPS]
    channels = [numpy.interp(places, known, [colour[i] for _, colour in _STOPS]) for i in range(3)]
    return numpy.stack(channels, axis=1).astype(numpy.uint8)
