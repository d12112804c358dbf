"""Pictures made of pictures, for people: reference beside candidate."""

import os
from pathlib import Path

from PIL import Image, ImageDraw

GAP_PX = 4
LABEL_PX = 18
MOST_ROWS = 3
LONGEST_SIDE_PX = 512


def side_by_side(reference: Path, candidate: Path, out: Path) -> bool:
    """Write one PNG: a row per picture, the reference left and the candidate right, the first few requests.

    Returns False, and writes nothing, when the folders have no picture in common.
    """
    names = sorted(file.name for file in candidate.glob("*.png") if (reference / file.name).is_file())[:MOST_ROWS]
    if not names:
        return False
    rows = [(_open(reference / name), _open(candidate / name)) for name in names]
    width = max(left.width for left, _ in rows)
    height = sum(left.height + GAP_PX for left, _ in rows) + LABEL_PX
    sheet = Image.new("RGB", (2 * width + GAP_PX, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 3), "reference", fill="black")
    draw.text((width + GAP_PX + 4, 3), "this trial", fill="black")
    top = LABEL_PX
    for left, right in rows:
        sheet.paste(left, (0, top))
        sheet.paste(right, (width + GAP_PX, top))
        top += left.height + GAP_PX
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    sheet.save(temporary, format="PNG")
    temporary.replace(out)
    return True


def _open(file: Path) -> Image.Image:
    with Image.open(file) as image:
        picture = image.convert("RGB")
    picture.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    return picture
