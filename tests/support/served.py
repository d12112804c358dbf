"""The dashboard's application on a port of this machine, in a thread, and a visitor with a cookie jar."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn
from paretune.agent.review.app.access import Access, Passwords
from paretune.agent.review.app.application import application
from paretune.studies import Records

NOBODYS = Passwords()


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Visitor:
    """A browser without a browser: keeps its cookie, and sends what a page of the dashboard would."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)
    token: str = ""

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str | None) -> Answer:
        """Headers with an underscore for each hyphen; None leaves one out."""
        sent: dict[str, str | None] = {"host": f"127.0.0.1:{self.port}", "accept": "text/html"}
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent |= {name.replace("_", "-").lower(): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            found = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()
        if cookie := found.headers.get("set-cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return found

    def get(self, path: str, **headers: str | None) -> Answer:
        return self.ask("GET", path, **headers)

    def open(self, path: str) -> Answer:
        """As `get`, and take up the page's token."""
        answer = self.get(path)
        if found := re.search(r'name="csrf-token" content="([^"]*)"', answer.text):
            self.token = found[1]
        return answer

    def post(self, path: str, data: Any = None, **headers: str | None) -> Answer:
        """JSON, as the pages' scripts send it."""
        usual = {"origin": self.root, "x_csrf_token": self.token, "content_type": "application/json"}
        body = json.dumps(data if data is not None else {}).encode()
        return self.ask("POST", path, body, **{**usual, "accept": "application/json", **headers})

    def log_in(self, password: str, **headers: str | None) -> Answer:
        body = urlencode({"password": password, "next": "/"}).encode()
        return self.ask("POST", "/login", body, **{"origin": self.root, **headers})


@contextmanager
def served(
    storage: str,
    folder: Path,
    passwords: Passwords = NOBODYS,
    *,
    host: str = "127.0.0.1",
    **rules: Any,
) -> Iterator[Visitor]:
    """The dashboard over a database; `host` is what it believes to be listening on. rules: of Access."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        app = application(
            Records(storage, must_exist=True), Access(passwords, host=host, port=port, **rules), folder / "bundles"
        )
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Visitor(port)
        finally:
            server.should_exit = True
            thread.join(10)
