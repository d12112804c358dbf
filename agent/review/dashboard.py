"""Optuna's dashboard over the study's database, with our note, metric names and pictures."""

import io
import logging
import warnings
import wsgiref.simple_server
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, BinaryIO
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from ...studies import Records, UserError
from ..results.results import Results
from ..results.summary import study_note
from ..search.sampler import artifacts_folder

HOST = "127.0.0.1"
"""The dashboard has neither accounts nor passwords, so it is never served to other machines."""

OWN_NOTES = "## Your notes"
"""What people write into a study's note below this heading is theirs: it stays when the summary is written again."""


class _Server(ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class _QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line per request helps nobody."""


class _Pictures:
    """The artifact stores of all studies as one: each study knows where its launch left its files."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._stores = [FileSystemArtifactStore(folder) for folder in folders]

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Raises a 404 of the dashboard's own framework; anything else would print a traceback for each picture."""
        from bottle import HTTPError  # type: ignore[import-untyped]

        for store in self._stores:
            try:
                return store.open_reader(artifact_id)
            except ArtifactNotFound:
                continue
        raise HTTPError(404, "the picture is not where the study left it")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep an upload beside the first study's pictures."""
        self._stores[0].write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact wherever it is."""
        for store in self._stores:
            try:
                store.remove(artifact_id)
            except ArtifactNotFound:
                continue


def dashboard(name: str | None, storage: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve until interrupted; on_ready gets the address. Raises UserError."""
    try:
        import optuna_dashboard
    except ModuleNotFoundError:
        raise UserError("the dashboard is not installed: pip install 'paretune[dashboard]'") from None
    records = Records(storage, must_exist=True)
    if name is not None:
        records.study(name)
    studies = records.studies()
    if not studies:
        raise UserError("the database has no study yet: paretune launch makes one")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Importances of parameters that few trials have; the page says nothing wrong, and the terminal is no place for it.
    warnings.filterwarnings("ignore", message="Some regimes for parameter")
    optuna_storage = optuna.storages.RDBStorage(storage)
    for record in studies:
        if name in (None, record.name):
            try:
                _write_note(Results(records, record.name), optuna_storage)
            except UserError:
                # A study that cannot be read, for instance without its own techniques' file, hides no other one.
                if name is not None:
                    raise
    pictures = _Pictures(dict.fromkeys(artifacts_folder(Path(record.files)) for record in studies))
    logging.getLogger("optuna_dashboard").setLevel(logging.ERROR)
    app = optuna_dashboard.wsgi(optuna_storage, artifact_store=pictures)
    try:
        server = wsgiref.simple_server.make_server(HOST, port, app, _Server, _QuietHandler)
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error.strerror}): choose another with --port") from None
    server.set_app(only_this_machine(app, server.server_port))
    address = f"http://{HOST}:{server.server_port}/dashboard/"
    if name is not None:
        address += f"studies/{optuna_storage.get_study_id_from_name(name)}"
    with server:
        try:
            on_ready(address)
            server.serve_forever()
        except KeyboardInterrupt:
            return  # the way to end it, so no failure


def only_this_machine(app: WSGIApplication, port: int) -> WSGIApplication:
    """Refuse what other web pages send through the user's browser.

    The dashboard can delete studies and checks nothing. A page elsewhere can post to 127.0.0.1 (its Origin gives it
    away), or have its own name resolve to 127.0.0.1 and read everything (the Host header gives that away).
    """
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
    if port == 80:
        hosts |= {HOST, "localhost"}
    origins = {f"http://{host}" for host in hosts}

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("HTTP_HOST") in hosts and environ.get("HTTP_ORIGIN") in (None, *origins):
            if environ["PATH_INFO"].endswith("/param_importances"):
                # Optuna raises for a study of one trial, and the page asks again every few seconds.
                environ["wsgi.errors"] = io.StringIO()
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"The dashboard answers only its own pages on this machine.\n"]

    return guarded


def _write_note(results: Results, storage: Any) -> None:
    """Sum the study up in its note; raises UserError when the search has not begun."""
    import optuna_dashboard

    try:
        study = optuna.load_study(study_name=results.name, storage=storage)
    except KeyError:
        raise UserError(f"study {results.name} has no search yet: paretune launch continues it") from None
    page = f"/dashboard/studies/{study._study_id}"
    shown = dict.fromkeys([results.reference.number, *(trial.number for trial in results.front())])
    front = f"{page}/trials?numbers={','.join(map(str, shown))}"
    links = (
        f"Pictures: [the reference and the front side by side]({front}), "
        f"or [all of them]({page}/smartSelection) with *Show Artifacts*. `paretune report {results.name}` writes "
        "them into one page in full."
    )
    before = optuna_dashboard.get_note(study)
    own = (before.partition(OWN_NOTES)[2] if OWN_NOTES in before else before).strip()
    note = f"{study_note(results)}\n\n{links}\n\n{OWN_NOTES}\n\n{own or 'What you write here stays.'}\n"
    if note != before:
        optuna_dashboard.save_note(study, note)
