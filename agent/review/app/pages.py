"""How a page is made: its template, and what every page knows."""

from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse

from ....objectives.figures import FIGURE, drift_text
from .access import Access, Role, Session
from .shelf import Shelf

_HERE = Path(__file__).parent


def render(request: Request, template: str, *, status: int = 200, plots: bool = False, **values: Any) -> HTMLResponse:
    """A page of ours. plots: it draws with plotly, for which its policy has an exception."""
    request.state.plots = plots
    session = session_of(request)
    access = access_of(request)
    text = (
        _environment()
        .get_template(template)
        .render(
            path=request.url.path,
            version=metadata.version("paretune"),
            may_write=session is not None and session.role is Role.WRITE,
            logged_in=session is not None and bool(access.passwords),
            token="" if session is None else access.token(session),
            figure=FIGURE,
            drift=drift_text,
            **values,
        )
    )
    return HTMLResponse(text, status)


def session_of(request: Request) -> Session | None:
    """Who asks; None on the way to the login."""
    found: Session | None = request.state.session
    return found


def access_of(request: Request) -> Access:
    """The server's rules."""
    found: Access = request.app.state.access
    return found


def shelf_of(request: Request) -> Shelf:
    """The studies."""
    found: Shelf = request.app.state.shelf
    return found


@cache
def _environment() -> jinja2.Environment:
    folders = [_HERE / "templates", _HERE.parent / "templates"]  # the report's components
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
