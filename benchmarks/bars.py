"""What the charts of bars have in common: a sheet with a heading, and intervals."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH_PX, EDGE_PX = 1400, 28
BLUE, RED, GREY, INK, MUTED = (38, 110, 180), (190, 90, 60), (150, 150, 150), (25, 25, 25), (110, 110, 110)
LARGE, FONT, SMALL = (ImageFont.load_default(size) for size in (22, 19, 17))


def sheet(said: Sequence[str], height_px: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """White, with these lines at its top."""
    image = Image.new("RGB", (WIDTH_PX, height_px), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(said):
        draw.text((EDGE_PX, 18 + 32 * number), line, fill=MUTED if number else INK, font=FONT if number else LARGE)
    return image, draw


def interval(draw: ImageDraw.ImageDraw, at: float, low: float, high: float) -> None:
    """A line from low to high with a stop at each end, `at` so far down; in pixels."""
    draw.line((low, at, high, at), fill=INK, width=2)
    for end in (low, high):
        draw.line((end, at - 6, end, at + 6), fill=INK, width=2)


def save(image: Image.Image, file: Path) -> None:
    """As small as it gets."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, optimize=True)
