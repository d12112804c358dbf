"""The list of studies, which brings itself up to date while something is measured."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, StreamingResponse

from ....studies import plain_without_secrets
from .pages import render, shelf_of
from .summaries import summaries

router = APIRouter()
EVERY_S = 2.0


@router.get("/")
def studies(request: Request) -> HTMLResponse:
    """The page."""
    return render(request, "studies.html.j2", studies=summaries(shelf_of(request)))


@router.get("/events")
def events(request: Request) -> StreamingResponse:
    """The list again, as JSON, each time that something in it has changed."""

    async def changes() -> AsyncIterator[str]:
        sent = ""
        while not await request.is_disconnected():
            found = await run_in_threadpool(summaries, shelf_of(request))
            text = json.dumps(plain_without_secrets([asdict(one) for one in found]))
            yield ": nothing new\n\n" if text == sent else f"data: {text}\n\n"
            sent = text
            await asyncio.sleep(EVERY_S)

    return StreamingResponse(changes(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
