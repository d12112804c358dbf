"""Optuna's dashboard over what the report shows, on this machine only, with our note."""

import io
import json
import logging
import re
import sys
import warnings
import wsgiref.simple_server
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from ...studies import Records, UserError, optuna_storage, without_secrets
from .report import template
from .view import study_view

if TYPE_CHECKING:
    from .optuna_storage import ReportedStorage

NOT_IN_FRAMES = (("Content-Security-Policy", "frame-ancestors 'none'"), ("X-Frame-Options", "DENY"))
"""Another page could show the dashboard in a frame, and have its visitors click there without knowing."""
HOST = "127.0.0.1"
"""The dashboard has neither accounts nor passwords, so it is never served to other machines."""

OWN_NOTES = "## Your notes"
"""What people write into a study's note below this heading is theirs: it stays when the summary is written again."""
_STUDY = re.compile(r"/api/studies/(\d+)/?")
_NOTE = re.compile(r"/api/studies/\d+(/\d+)?/note/?")


class _Server(ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class _QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line per request helps nobody."""

    def end_headers(self) -> None:
        """Of what is refused before the dashboard sees it, such as a request that is none."""
        for name, value in NOT_IN_FRAMES:
            self.send_header(name, value)
        super().end_headers()


def dashboard(name: str | None, storage: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve until interrupted; on_ready gets the address. Raises UserError."""
    try:
        import optuna_dashboard
    except ModuleNotFoundError:
        raise UserError("the dashboard is not installed: pip install 'paretune[dashboard]'") from None
    from .optuna_storage import ReportedStorage

    records = Records(storage, must_exist=True)
    if name is not None:
        records.study(name)
    if not records.study_names():
        raise UserError("the database has no study yet: paretune launch adds one")
    # Importances of parameters that few trials have; the page says nothing wrong, and the terminal is no place for it.
    warnings.filterwarnings("ignore", message="Some regimes for parameter")
    reported = ReportedStorage(records, optuna_storage(records.reading_url, read_only=True))
    page = "" if name is None else f"studies/{reported.id_of(name)}"
    logging.getLogger("optuna_dashboard").setLevel(logging.ERROR)
    app = as_reported(optuna_dashboard.wsgi(reported, artifact_store=reported), reported)
    try:
        server = wsgiref.simple_server.make_server(HOST, port, app, _Server, _QuietHandler)
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error.strerror}): choose another with --port") from None
    server.set_app(only_this_machine(app, server.server_port))
    with server:
        try:
            on_ready(f"http://{HOST}:{server.server_port}/dashboard/{page}")
            server.serve_forever()
        except KeyboardInterrupt:
            return  # the way to end it, so no failure


def only_this_machine(app: WSGIApplication, port: int) -> WSGIApplication:
    """Refuse what other web pages send through the user's browser.

    A page elsewhere can post to 127.0.0.1 (its Origin gives it away), or have its own name resolve to 127.0.0.1 and
    read everything (the Host header gives that away), or show it in a frame (every answer forbids that).
    """
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
    if port == 80:
        hosts |= {HOST, "localhost"}
    origins = {f"http://{host}" for host in hosts}

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            named = {name.lower() for name, _ in NOT_IN_FRAMES}
            others = [(name, value) for name, value in headers if name.lower() not in named]
            return start_response(status, [*others, *NOT_IN_FRAMES], *error)

        if environ.get("HTTP_HOST") in hosts and environ.get("HTTP_ORIGIN") in (None, *origins):
            try:
                return app(environ, start)
            except Exception as error:
                sentence = without_secrets(f"{type(error).__name__}: {error}")
                start("500 Internal Server Error", [("Content-Type", "text/plain; charset=utf-8")], sys.exc_info())
                return [sentence.encode(errors="replace") + b"\n"]
        return _refused(start, "The dashboard answers only its own pages on this machine.")

    return guarded


def as_reported(app: WSGIApplication, storage: "ReportedStorage") -> WSGIApplication:
    """The dashboard with the front as its best trials, the summary in its note, and nothing to change but notes.

    Left alone, it takes trials that break the study's limits for best ones too.
    """

    def shown(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD") and not _NOTE.fullmatch(path):
            return _refused(start_response, "Only notes can be changed here: everything else was measured.")
        if path.startswith("/api/studies"):
            storage.refresh()
        if path.endswith("/param_importances"):
            # Optuna raises for a study of one trial, and the page asks again every few seconds.
            environ["wsgi.errors"] = io.StringIO()
        asked = _STUDY.fullmatch(path)
        if asked is None or environ["REQUEST_METHOD"] != "GET":
            return app(environ, start_response)
        # The page asks for the trials that it does not know yet, but best trials may be any.
        after = int(parse_qs(environ["QUERY_STRING"]).get("after", ["0"])[0])
        body, status, headers = _answer(app, {**environ, "QUERY_STRING": ""})
        if status.startswith("200"):
            study = json.loads(body)
            _change(study, int(asked[1]), storage, after)
            body = json.dumps(study).encode()
        kept = [(key, value) for key, value in headers if key.lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]

    return shown


def _change(study: dict[str, Any], study_id: int, storage: "ReportedStorage", after: int) -> None:
    view = study_view(storage.results(study_id))
    by_number = {trial["number"]: trial for trial in study["trials"]}
    study["best_trials"] = [by_number[number] for number in view.front if number in by_number]
    study["trials"] = study["trials"][after:]
    written = study["note"]["body"]
    own = (written.partition(OWN_NOTES)[2] if OWN_NOTES in written else written).strip()
    summary = template("dashboard_note.md.j2").render(view=view, page=f"/dashboard/studies/{study_id}")
    study["note"]["body"] = f"{summary}\n\n{OWN_NOTES}\n\n{own or 'What you write here stays.'}\n"


def _refused(start_response: StartResponse, sentence: str) -> Iterable[bytes]:
    start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
    return [sentence.encode() + b"\n"]


def _answer(app: WSGIApplication, environ: WSGIEnvironment) -> tuple[bytes, str, list[tuple[str, str]]]:
    """The body, the status and the headers."""
    started: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> Callable[[bytes], object]:
        started[:] = [status, headers]
        return bytes  # WSGI's old way to send a body, which Bottle does not use

    body = b"".join(app(environ, start))
    return body, started[0], started[1]
