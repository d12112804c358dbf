"""Optuna's dashboard over the study's database, with our note, metric names and pictures."""

import logging
import wsgiref.simple_server
from collections.abc import Callable
from socketserver import ThreadingMixIn

import optuna
from optuna.artifacts import FileSystemArtifactStore

from ..studies import Records, UserError
from ._results import Results
from ._summary import study_note
from .launch import artifacts_folder, files_folder

HOST = "127.0.0.1"
"""The dashboard has neither accounts nor passwords, so it is never served to other machines."""


class _Server(ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class _QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line per request helps nobody."""


def dashboard(name: str | None, storage: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve until interrupted; on_ready gets the address. Raises UserError."""
    try:
        import optuna_dashboard
    except ModuleNotFoundError:
        raise UserError("the dashboard is not installed: pip install 'paretune[dashboard]'") from None
    records = Records(storage)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna_storage = optuna.storages.RDBStorage(storage)
    names = [name] if name is not None else [record.name for record in records.studies()]
    for study_name in names:
        results = Results(records, study_name)
        study = optuna.load_study(study_name=study_name, storage=optuna_storage)
        optuna_dashboard.save_note(study, study_note(results))
    store = FileSystemArtifactStore(artifacts_folder(files_folder(storage) / "any"))
    logging.getLogger("optuna_dashboard").setLevel(logging.ERROR)
    app = optuna_dashboard.wsgi(optuna_storage, artifact_store=store)
    try:
        server = wsgiref.simple_server.make_server(HOST, port, app, _Server, _QuietHandler)
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error.strerror}): choose another with --port") from None
    address = f"http://{HOST}:{server.server_port}/dashboard/"
    if name is not None:
        study_id = optuna_storage.get_study_id_from_name(name)
        address += f"studies/{study_id}"
    on_ready(address)
    with server:
        server.serve_forever()
