"""The style sheets and scripts of the pages; plotly's comes from the installed package."""

from functools import cache
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

router = APIRouter()
_STATIC = Path(__file__).with_name("static")
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@router.get("/assets/{name}")
def asset(request: Request, name: str) -> Response:
    """One of the files that come with paretune, by its plain name."""
    content, kind = _content(name)
    tag = f'"{hash(content):x}"'
    headers = {"Cache-Control": "no-cache", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


@router.get("/favicon.ico")
def favicon(request: Request) -> Response:
    """Asked for by browsers on pages that name no icon, as Optuna's do not."""
    return asset(request, "icon.svg")


@cache
def _known() -> dict[str, Path]:
    report = Path(__file__).parent.parent / "templates"
    shared = {"base.css": report / "report.css", "labels.js": report / "labels.js"}
    return {**shared, **{file.name: file for file in _STATIC.iterdir() if file.suffix in _KINDS}}


@cache
def _content(name: str) -> tuple[bytes, str]:
    if name == "plotly.js":
        from plotly.offline import get_plotlyjs

        return get_plotlyjs().encode(), _KINDS[".js"]
    if (file := _known().get(name)) is None:
        raise HTTPException(404, "There is no such file.")
    return file.read_bytes(), _KINDS[file.suffix]
