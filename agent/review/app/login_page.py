"""Logging in and out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from .guard import set_session
from .pages import access_of, render, session_of

router = APIRouter()
WRONG_S = 1.0
"""How long a wrong password takes, and no other one from the same address is looked at meanwhile."""
MOST_WAITING, MOST_ADDRESSES = 4, 200
"""Attempts that may wait from one address, and addresses that may wait at a time; more are refused at once."""


class Attempts:
    """Passwords that are being looked at: one at a time from each address, so that guessing gets nowhere, and whoever
    guesses keeps nobody else from logging in.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[bool]:
        """Wait for this address's turn; False, at once, where too many wait already."""
        lock, waiting = self._waiting.get(address) or (asyncio.Lock(), 0)
        if waiting > MOST_WAITING or (waiting == 0 and len(self._waiting) >= MOST_ADDRESSES):
            yield False
            return
        self._waiting[address] = lock, waiting + 1
        try:
            async with lock:
                yield True
        finally:
            _, waiting = self._waiting.pop(address)
            if waiting > 1:
                self._waiting[address] = lock, waiting - 1


@router.get("/login")
def login(request: Request, next: str = "/") -> Response:
    """The form."""
    return render(request, "login.html.j2", next=_own(next), said="")


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Begin a session, and go where the visitor wanted to."""
    form = parse_qs((await request.body()).decode(errors="replace"))
    access = access_of(request)
    there = _own(form.get("next", ["/"])[0])
    attempts: Attempts = request.app.state.attempts
    async with attempts.turn("" if request.client is None else request.client.host) as granted:
        role = access.passwords.role_of(form.get("password", [""])[0]) if granted else None
        if role is None:
            if granted:
                await asyncio.sleep(WRONG_S)
            said = "That is not the password." if granted else "Too many attempts: wait a few seconds, then try again."
            return render(request, "login.html.j2", status=401 if granted else 429, next=there, said=said)
    answer = RedirectResponse(there, status_code=303)
    set_session(answer.headers, access, access.new_session(role), secure=request.url.scheme == "https")
    return answer


@router.post("/logout")
def log_out(request: Request) -> Response:
    """End the session."""
    session = session_of(request)
    if session is not None:
        access_of(request).log_out(session)
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(access_of(request).cookie_name, path="/", httponly=True, samesite="lax")
    return answer


def _own(there: str) -> str:
    """A path of this server; another address would be somebody else's idea of where to go after the login."""
    safe = there.startswith("/") and not there.startswith(("//", "/\\")) and there.isprintable()
    return there if safe else "/"
