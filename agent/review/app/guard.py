"""What every request passes before a page sees it, Optuna's pages included, and the headers that every answer has."""

from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import SESSION_S, Access, Role, Session

OPTUNAS = ("/dashboard", "/api", "/static", "/artifacts", "/csv")
"""Where Optuna's dashboard lives: its page asks for absolute paths."""
OPEN = ("/login", "/assets/base.css", "/assets/app.css")
"""What is answered without a login."""
READING = ("GET", "HEAD")
MOST_BYTES = 256 * 1024
"""Of what a request may bring: notes and names, never more."""
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PLOT_POLICY = CONTENT_POLICY.replace("style-src 'self'", "style-src 'self'; style-src-attr 'unsafe-inline'")
"""Of pages with a plot: plotly.js places text by style attributes."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def is_optunas(path: str) -> bool:
    """Whether a path belongs to Optuna's dashboard."""
    return any(path == place or path.startswith(f"{place}/") for place in OPTUNAS)


class Guard:
    """Around the whole application."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application. A web socket is refused: nothing here uses one."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        session = self._access.session(request.cookies.get(self._access.cookie_name))
        begun = session is None and not self._access.passwords
        if begun:
            session = self._access.new_session(Role.WRITE)
        request.state.session = session

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._complete(MutableHeaders(scope=message), request, session if begun else None)
            await send(message)

        refusal = self._refusal(request, session)
        if refusal is None and request.method not in READING:
            body = await _body(request)
            if body is None:
                refusal = _refused(413, f"That is too long: {MOST_BYTES // 1024} KiB are the most.")
            else:
                receive = _once(body, receive)
        await (self._app if refusal is None else refusal)(scope, receive, sending)

    def _refusal(self, request: Request, session: Session | None) -> Response | None:
        headers, path = request.headers, request.scope["path"]
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._access.answers(host):
            return _refused(403, "The dashboard does not answer under this name: see --allow-name.")
        if origin is not None and not self._access.is_own(origin, host):
            return _refused(403, "The dashboard answers only its own pages.")
        # A picture or a script that another page embeds comes without an origin. A link that is followed is no harm.
        followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed:
            return _refused(403, "The dashboard answers only its own pages.")
        reading = request.method in READING
        if not reading and origin is None:
            return _refused(403, "What changes anything has to come from a page of the dashboard.")
        if path in OPEN:
            return None
        if session is None:
            return _login(request) if reading else _refused(401, "Log in first.")
        if reading:
            return None
        if path == "/logout":
            return None
        if session.role is not Role.WRITE:
            return _refused(403, "You may look at everything here, and change nothing.")
        # Optuna's own page knows no token; that the request is its own is known from its origin and its cookie.
        if not is_optunas(path) and not self._access.is_token(session, headers.get("x-csrf-token", "")):
            return _refused(403, "The page is from before the dashboard was started: reload it.")
        return None

    def _complete(self, headers: MutableHeaders, request: Request, begun: Session | None) -> None:
        """Add what every answer has, and the cookie of a session that has just begun."""
        del headers["access-control-allow-origin"]  # Optuna's artifacts are meant for every page
        for name, value in HEADERS.items():
            headers[name] = value
        theirs = headers.get("content-security-policy") if is_optunas(request.scope["path"]) else None
        ours = PLOT_POLICY if getattr(request.state, "plots", False) else CONTENT_POLICY
        headers["Content-Security-Policy"] = f"{theirs}; frame-ancestors 'none'" if theirs else ours
        headers.setdefault("Cache-Control", "no-store")
        if begun is not None:
            set_session(headers, self._access, begun, secure=request.url.scheme == "https")


def set_session(headers: MutableHeaders, access: Access, session: Session, *, secure: bool) -> None:
    """Set the cookie of a session: no script reads it, and of what other pages do only a link that is
    followed carries it.
    """
    safe = "; Secure" if secure else ""
    headers.append(
        "set-cookie",
        f"{access.cookie_name}={session.cookie}; HttpOnly; SameSite=Lax; Path=/; Max-Age={SESSION_S}{safe}",
    )


async def _body(request: Request) -> bytes | None:
    """Read before anything else sees the request, so that nothing has to hold more; None for one that is too long."""
    body = b""
    try:
        if int(request.headers.get("content-length", 0)) > MOST_BYTES:
            return None
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                return None
    except (ValueError, ClientDisconnect):
        return None
    return body


def _once(body: bytes, receive: Receive) -> Receive:
    """The body as an application asks for it; then whatever comes after it."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return left.pop() if left else await receive()

    return received


def _login(request: Request) -> Response:
    if "text/html" not in request.headers.get("accept", "text/html"):
        return _refused(401, "Log in first.")
    there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(there, safe='')}", status_code=303)


def _refused(status: int, sentence: str) -> Response:
    return PlainTextResponse(f"{sentence}\n", status_code=status)
