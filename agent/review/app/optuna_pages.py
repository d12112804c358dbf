"""Optuna's dashboard over what the report shows, with our note; nothing but notes can be changed in it."""

import io
import json
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from ....studies import Records, UserError, optuna_storage, without_secrets
from ..report import template
from ..view import study_view
from .shelf import Shelf

if TYPE_CHECKING:
    from ..optuna_storage import ReportedStorage

OWN_NOTES = "## Your notes"
"""What people write into a study's note below this heading is theirs: it stays when the summary is written again."""
_STUDY = re.compile(r"/api/studies/(\d+)/?")
_NOTE = re.compile(r"/api/studies/\d+(/\d+)?/note/?")


def optuna_pages(shelf: Shelf) -> WSGIApplication:
    """Optuna's dashboard over the database; where that cannot be read, a sentence instead of each page."""
    lock = threading.Lock()
    made: list[tuple[Records, WSGIApplication]] = []

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            with lock:
                if not made or made[0][0] is not shelf.records:
                    made[:] = [(shelf.records, _pages_of(shelf.records))]
                _, app = made[0]
        except UserError as error:
            app = _sentence(without_secrets(str(error)))
        return app(environ, start_response)

    return answer


def _pages_of(records: Records) -> WSGIApplication:
    """Raises UserError where Optuna's tables cannot be read."""
    import optuna_dashboard

    from ..optuna_storage import ReportedStorage

    # Importances of parameters that few trials have; the page says nothing wrong, and the terminal is no place for it.
    warnings.filterwarnings("ignore", message="Some regimes for parameter")
    logging.getLogger("optuna_dashboard").setLevel(logging.ERROR)
    reported = ReportedStorage(records, optuna_storage(records.reading_url, read_only=True))
    return as_reported(optuna_dashboard.wsgi(reported, artifact_store=reported), reported)


def as_reported(app: WSGIApplication, storage: "ReportedStorage") -> WSGIApplication:
    """The dashboard with the front as its best trials, the summary in its note, and nothing to change but notes.

    Left alone, it takes trials that break the study's limits for best ones too.
    """

    def shown(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD") and not _NOTE.fullmatch(path):
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"Only notes can be changed here: everything else was measured.\n"]
        if path.startswith("/api/studies"):
            storage.refresh()
        if path.endswith("/param_importances"):
            # Optuna raises for a study of one trial, and the page asks again every few seconds.
            environ["wsgi.errors"] = io.StringIO()
        asked = _STUDY.fullmatch(path)
        if asked is None or environ["REQUEST_METHOD"] != "GET":
            # Whole: a visitor who reads slowly would keep one of the few threads that answer, chunk by chunk.
            body, status, headers = _answer(app, environ)
            start_response(status, headers)
            return [body]
        # The page asks for the trials that it does not know yet, but best trials may be any.
        after = parse_qs(environ["QUERY_STRING"]).get("after", ["0"])[0]
        body, status, headers = _answer(app, {**environ, "QUERY_STRING": ""})
        if status.startswith("200"):
            study = json.loads(body)
            _change(study, int(asked[1]), storage, int(after) if after.isascii() and after.isdigit() else 0)
            body = json.dumps(study).encode()
        kept = [(key, value) for key, value in headers if key.lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")  # the dashboard fails without one
        try:
            return shown(environ, start_response)
        except Exception as error:
            sentence = without_secrets(f"{type(error).__name__}: {error}")
            kind = [("Content-Type", "text/plain; charset=utf-8")]
            start_response("500 Internal Server Error", kind)
            return [sentence.encode(errors="replace") + b"\n"]

    return guarded


def _sentence(sentence: str) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
        return [sentence.encode() + b"\n"]

    return answer


def _change(study: dict[str, Any], study_id: int, storage: "ReportedStorage", after: int) -> None:
    view = study_view(storage.results(study_id))
    by_number = {trial["number"]: trial for trial in study["trials"]}
    study["best_trials"] = [by_number[number] for number in view.front if number in by_number]
    study["trials"] = study["trials"][after:]
    written = study["note"]["body"]
    own = (written.partition(OWN_NOTES)[2] if OWN_NOTES in written else written).strip()
    summary = template("dashboard_note.md.j2").render(view=view, page=f"/dashboard/studies/{study_id}")
    study["note"]["body"] = f"{summary}\n\n{OWN_NOTES}\n\n{own or 'What you write here stays.'}\n"


def _answer(app: WSGIApplication, environ: WSGIEnvironment) -> tuple[bytes, str, list[tuple[str, str]]]:
    """The body, the status and the headers."""
    started: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> Callable[[bytes], object]:
        started[:] = [status, headers]
        return bytes  # WSGI's old way to send a body, which Bottle does not use

    body = b"".join(app(environ, start))
    return body, started[0], started[1]
