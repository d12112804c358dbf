"""The application: our pages, then Optuna's, behind one guard."""

from pathlib import Path

from a2wsgi import WSGIMiddleware
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ....studies import Records, UserError, fault_sentence, without_secrets
from . import (
    assets,
    choose_page,
    front_page,
    login_page,
    picture_files,
    pictures_page,
    ratings_page,
    studies_page,
    trial_page,
)
from .access import Access
from .blind import Blind
from .exports import Exports
from .guard import Guard, is_optunas
from .optuna_pages import optuna_pages
from .pages import render
from .shelf import Shelf

PAGES = (
    assets,
    login_page,
    studies_page,
    front_page,
    trial_page,
    picture_files,
    pictures_page,
    choose_page,
    ratings_page,
)


def application(records: Records, access: Access, bundles: Path) -> ASGIApp:
    """Everything that is served. bundles: where exported ones go."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.access = access
    shelf = app.state.shelf = Shelf(records)
    shelf.read_all()
    app.state.news = studies_page.News(shelf)
    app.state.blind = Blind()
    app.state.exports = Exports(shelf, bundles)
    app.state.attempts = login_page.Attempts()
    for module in PAGES:
        app.include_router(module.router)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(UserError, _impossible)
    app.add_exception_handler(Exception, _failed)
    app.mount("/", _Optunas(WSGIMiddleware(optuna_pages(shelf))))
    return Guard(app, access)


class _Optunas:
    """Optuna's dashboard where it lives; whatever else is asked for is no page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_optunas(scope["path"]):
            raise HTTPException(404, "There is no such page.")
        await self._app(scope, receive, send)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = error.detail if error.detail != "Not Found" else "There is no such page."
    return _answer(request, error.status_code, sentence)


async def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if request.method == "GET":
        return _answer(request, 404, "There is no such page.")
    said = "; ".join(f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}" for one in error.errors())
    return _answer(request, 422, f"This cannot be stored ({said}).")


async def _impossible(request: Request, error: Exception) -> Response:
    return _answer(request, 409, str(error))


async def _failed(request: Request, error: Exception) -> Response:
    return _answer(request, 500, fault_sentence(error) or f"{type(error).__name__}: {error}")


def _answer(request: Request, status: int, sentence: str) -> Response:
    sentence = without_secrets(sentence)
    if "text/html" in request.headers.get("accept", ""):
        return render(request, "message.html.j2", status=status, sentence=sentence)
    return JSONResponse({"error": sentence}, status)
