"""Pictures made of pictures, for people: reference beside candidate, and pictures inside an HTML file."""

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from ...studies import there

GAP_PX = 4
LABEL_PX = 18
LONGEST_SIDE_PX = 512
INLINE_BYTES = 6_500_000
"""What all pictures of one HTML file may weigh before base64, which adds a third."""
_SMALLER_SIDES_PX = (768, 512, 384, 256, 192, 128)


@dataclass(frozen=True)
class InlinedPictures:
    """Pictures as data URIs, by file; `longest_side_px` is None when they are the files' own bytes."""

    uris: Mapping[Path, str]
    longest_side_px: int | None


def inline_pictures(files: Iterable[Path], most_bytes: int = INLINE_BYTES) -> InlinedPictures:
    """PNG files as data URIs: unchanged when they fit into `most_bytes` together, else all downscaled alike as WebP.

    All alike, because pictures are compared with each other. Files that are missing or unreadable are left out.
    """
    found = [file for file in dict.fromkeys(files) if there(file, Path.is_file)]
    if sum(file.stat().st_size for file in found) <= most_bytes:
        return InlinedPictures({file: _uri("png", file.read_bytes()) for file in found if _readable(file)}, None)
    for side_px in _SMALLER_SIDES_PX:
        smaller = {file: _webp(file, side_px) for file in found if _readable(file)}
        if sum(map(len, smaller.values())) <= most_bytes or side_px == _SMALLER_SIDES_PX[-1]:
            break
    return InlinedPictures({file: _uri("webp", data) for file, data in smaller.items()}, side_px)


def side_by_side(reference: Path, candidate: Path) -> bytes | None:
    """One PNG: the reference's picture left and the candidate's right; None when a file is missing or unreadable."""
    if not all(there(file, Path.is_file) and _readable(file) for file in (reference, candidate)):
        return None
    left, right = _open(reference), _open(candidate)
    sheet = Image.new("RGB", (left.width + GAP_PX + right.width, LABEL_PX + max(left.height, right.height)), "white")
    draw = ImageDraw.Draw(sheet)
    for x_px, label, picture in ((0, "reference", left), (left.width + GAP_PX, "this trial", right)):
        draw.text((x_px + 4, 3), label, fill="black")
        sheet.paste(picture, (x_px, LABEL_PX))
    data = io.BytesIO()
    sheet.save(data, format="PNG")
    return data.getvalue()


def _open(file: Path, longest_side_px: int = LONGEST_SIDE_PX) -> Image.Image:
    with Image.open(file) as image:
        picture = image.convert("RGB")
    picture.thumbnail((longest_side_px, longest_side_px))
    return picture


def _readable(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            image.load()  # all of it: a picture that was cut off has a good beginning
    except Exception:  # Pillow's decoders raise whatever they stumble over
        return False
    return True


def _webp(file: Path, longest_side_px: int) -> bytes:
    data = io.BytesIO()
    _open(file, longest_side_px).save(data, format="WEBP", quality=88)
    return data.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
