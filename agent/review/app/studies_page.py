"""The list of studies, which brings itself up to date while something is measured."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import asdict

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, StreamingResponse

from ....studies import UserError, plain_without_secrets
from .pages import render, shelf_of
from .shelf import Shelf
from .summaries import summaries

router = APIRouter()
EVERY_S = 2.0


class News:
    """The list of studies for every page that is open: worked out once, however many ask."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._text = ""
        self._made_at = -EVERY_S

    def text(self) -> str:
        """As JSON: {"studies": [...]}, or {"problem": a sentence} where the database cannot be read."""
        with self._lock:
            if time.monotonic() - self._made_at >= EVERY_S / 2:
                found: dict[str, object]
                try:
                    found = {"studies": [asdict(one) for one in summaries(self._shelf)]}
                except UserError as error:
                    found = {"problem": str(error)}
                self._text = json.dumps(plain_without_secrets(found))
                self._made_at = time.monotonic()
            return self._text


@router.get("/")
def studies(request: Request) -> HTMLResponse:
    """The page."""
    return render(request, "studies.html.j2", studies=summaries(shelf_of(request)))


@router.get("/events")
def events(request: Request) -> StreamingResponse:
    """The list again, each time that something in it has changed."""
    news: News = request.app.state.news

    async def changes() -> AsyncIterator[str]:
        sent = ""
        while not await request.is_disconnected():
            text = await run_in_threadpool(news.text)
            yield ": nothing new\n\n" if text == sent else f"data: {text}\n\n"
            sent = text
            await asyncio.sleep(EVERY_S)

    return StreamingResponse(changes(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
