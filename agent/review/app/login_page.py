"""Logging in and out."""

import asyncio
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from .guard import set_session
from .pages import access_of, render

router = APIRouter()
WRONG_S = 1.0
"""How long a wrong password takes, and nobody's password is looked at meanwhile: guessing gets nowhere."""
MOST_BYTES = 4096
_one_at_a_time = asyncio.Lock()


@router.get("/login")
def login(request: Request, next: str = "/") -> Response:
    """The form."""
    return render(request, "login.html.j2", next=_own(next), wrong=False)


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Begin a session, and go where the visitor wanted to."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            return Response(status_code=413)
    form = parse_qs(body.decode(errors="replace"))
    access = access_of(request)
    there = _own(form.get("next", ["/"])[0])
    async with _one_at_a_time:
        role = access.passwords.role_of(form.get("password", [""])[0])
        if role is None:
            await asyncio.sleep(WRONG_S)
            return render(request, "login.html.j2", status=401, next=there, wrong=True)
    answer = RedirectResponse(there, status_code=303)
    set_session(answer.headers, access, access.new_session(role), secure=request.url.scheme == "https")
    return answer


@router.post("/logout")
def log_out(request: Request) -> Response:
    """End the session in this browser."""
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(access_of(request).cookie_name, path="/", httponly=True, samesite="lax")
    return answer


def _own(there: str) -> str:
    """A path of this server; another address would be somebody else's idea of where to go after the login."""
    safe = there.startswith("/") and not there.startswith(("//", "/\\")) and there.isprintable()
    return there if safe else "/"
