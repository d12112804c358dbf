"""Serving the application until Ctrl-C."""

import logging
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

from ....studies import Records, UserError
from .access import Access, Passwords

BACKLOG = 128
NO_PASSWORDS = Passwords()


def dashboard(
    name: str | None,
    storage: str,
    port: int,
    on_ready: Callable[[str], None],
    *,
    host: str = "127.0.0.1",
    passwords: Passwords = NO_PASSWORDS,
    names: Iterable[str] = (),
    read_only: bool = False,
    bundles: Path = Path("paretune-bundles"),
) -> None:
    """Serve until interrupted; on_ready gets the address.

    name: the study whose page the address is of; by default the list of them. port: 0 takes a free one. names: under
    which the server may be reached besides addresses and this machine's own name. bundles: where exported ones go.
    Raises UserError.
    """
    names = list(names)
    passwords.check(host, names)
    records = Records(storage, must_exist=True)
    if name is not None:
        records.study(name)
    if not records.study_names():
        raise UserError("the database has no study yet: paretune launch adds one")
    try:
        import optuna_dashboard  # noqa: F401
        import uvicorn

        from .application import application
    except ModuleNotFoundError as error:
        if str(error.name).startswith("paretune"):
            raise
        raise UserError("the dashboard is not installed: pip install 'paretune[dashboard]'") from None
    listening = _listening(host, port)
    bound = int(listening.getsockname()[1])
    access = Access(passwords, host=host, port=bound, names=names, read_only=read_only)
    app = application(records, access, bundles)
    shown = f"[{host}]" if ":" in host else host
    # Its own messages would be a line per request, and a traceback where a browser goes away early, or a page failed,
    # which says so itself, without what is secret.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=1)
    )
    with listening:
        try:
            on_ready(f"http://{shown}:{bound}/{'' if name is None else f'studies/{quote(name)}'}")
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            return  # the way to end it, so no failure


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"--host {host} is no address of this machine ({error.strerror})") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        raise UserError(f"port {port} cannot be used ({error.strerror}): choose another with --port") from None
    return found
