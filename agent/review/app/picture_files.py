"""The pictures of a study over HTTP: only PNG files that a trial was judged by, and what is made of them."""

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from ...results import Results, Trial
from .differences import SCALES_LSB, difference_map, thumbnail
from .pages import shelf_of
from .trial_page import trial_of

router = APIRouter()
KEPT = {"Cache-Control": "private, max-age=3600"}
SIDES_PX = (160, 256, 384)
PNG = b"\x89PNG\r\n\x1a\n"


@router.get("/studies/{study}/files/{number}/{file}")
def picture(request: Request, study: str, number: int, file: str) -> Response:
    """A picture as it was made."""
    with shelf_of(request).open(study) as results:
        found = picture_file(trial_of(results, number), file)
    return png_of(found)


@router.get("/studies/{study}/thumbs/{number}/{file}")
def small(request: Request, study: str, number: int, file: str, side: int = SIDES_PX[1]) -> Response:
    """The same, smaller."""
    if side not in SIDES_PX:
        raise HTTPException(404, "There is no picture of this size.")
    with shelf_of(request).open(study) as results:
        found = picture_file(trial_of(results, number), file)
    try:
        return Response(thumbnail(found, side), media_type="image/webp", headers=KEPT)
    except Exception:  # Pillow's decoders raise whatever they stumble over
        raise HTTPException(404, "The picture cannot be read.") from None


@router.get("/studies/{study}/differences/{number}/{file}")
def difference(request: Request, study: str, number: int, file: str, full: int = SCALES_LSB[-1]) -> Response:
    """Where it differs from the reference's."""
    if full not in SCALES_LSB:
        raise HTTPException(404, "There is no such scale.")
    with shelf_of(request).open(study) as results:
        pair = pair_of(results, trial_of(results, number), file)
    try:
        return Response(difference_map(*pair, full), media_type="image/png", headers=KEPT)
    except Exception:  # of two sizes, or as above
        raise HTTPException(404, "The pictures cannot be compared.") from None


def png_of(file: Path) -> Response:
    """A file that is a picture; anything else that lies there under such a name is not served."""
    try:
        content = file.read_bytes()
    except OSError:
        raise HTTPException(404, "The picture is not where the study left it.") from None
    if not content.startswith(PNG):
        raise HTTPException(404, "The picture cannot be read.")
    return Response(content, media_type="image/png", headers=KEPT)


def picture_file(trial: Trial, file: str) -> Path:
    """Where a picture lies that the trial was judged by; a 404 for any other name and for what leads elsewhere."""
    for found in trial.pictures():
        if found.name == file and found.resolve().parent == found.parent.resolve():
            return found
    raise HTTPException(404, f"Trial {trial.number} has no picture {file}.")


def pair_of(results: Results, trial: Trial, file: str) -> tuple[Path, Path]:
    """The reference's picture and the trial's."""
    return picture_file(results.reference, file), picture_file(trial, file)
