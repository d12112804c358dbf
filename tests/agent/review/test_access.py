"""Who gets into the dashboard, and that nothing of it can be used from elsewhere: every route, on a real server."""

import http.server
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("a2wsgi", reason="the dashboard extra is not installed")
from paretune.agent.review.app.access import Access, Passwords, Role
from paretune.agent.review.app.application import PAGES
from paretune.studies import Records, UserError
from support.browser import CHROMIUM, Browser
from support.page import Page
from support.replayed import url_of
from support.served import Visitor, served

WRITES, READS = "correct horse battery", "only for looking at it"
OPEN_ROUTES = {"/login"}


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[Visitor]:
    """With both passwords."""
    with served(url_of(folder), folder, Passwords(WRITES, READS), host="0.0.0.0", names=["studies.example"]) as visitor:
        yield visitor


@pytest.fixture(scope="module")
def local(folder: Path) -> Iterator[Visitor]:
    """On this machine only, without a password."""
    with served(url_of(folder), folder) as visitor:
        yield visitor


def stranger(visitor: Visitor) -> Visitor:
    return Visitor(visitor.port)


def routes() -> list[tuple[str, str]]:
    """Every route of our pages, with something in each place, and Optuna's."""
    found = [
        (method, re.sub(r"\{(\w+)[^}]*\}", lambda place: PLACES.get(place[1], "replayed"), route.path))
        for module in PAGES
        for route in module.router.routes
        for method in route.methods  # type: ignore[attr-defined]
    ]
    optunas = ["/dashboard/", "/api/studies", "/api/studies/1", "/static/bundle.js", "/artifacts/1/2/1-2", "/csv/1"]
    return [*found, *(("GET", path) for path in optunas), ("PUT", "/api/studies/1/note"), ("GET", "/nowhere")]


PLACES = {"number": "2", "file": "cat-0.png", "trial": "2"}


def test_every_route_asks_for_the_login(guarded: Visitor) -> None:
    asked = [(method, path) for method, path in routes() if path not in OPEN_ROUTES]
    assert len(asked) > 10
    for method, path in asked:
        if path.startswith("/assets/"):
            path = "/assets/page.js"
        answer = stranger(guarded).ask(method, path, origin=guarded.root)
        assert answer.status in (303, 401), (method, path)
        assert "replayed" not in answer.text
        assert answer.status == 401 or answer.headers["location"].startswith("/login?next=")


def test_a_password_lets_in_and_its_role_counts(guarded: Visitor) -> None:
    reader = stranger(guarded)
    assert reader.log_in(READS).status == 303
    assert "replayed" in reader.open("/").text
    assert "read only" in reader.open("/").text
    note = reader.ask("PUT", "/api/studies/1/note", b"{}", origin=guarded.root, content_type="application/json")
    assert (note.status, note.text) == (403, "You may look at everything here, and change nothing.\n")
    writer = stranger(guarded)
    assert writer.log_in(WRITES).status == 303
    assert "read only" not in writer.open("/").text
    assert writer.ask("POST", "/logout", b"", origin=guarded.root).status == 303
    assert writer.get("/").status == 303


def test_a_wrong_password_and_a_forged_cookie_do_not(guarded: Visitor) -> None:
    visitor = stranger(guarded)
    answer = visitor.log_in("guessed")
    assert answer.status == 401
    assert "That is not the password." in answer.text
    assert visitor.get("/").status == 303
    for cookie in ("write.9999999999.x.y", "", "...", "a" * 3000, "write.1.x." + "0" * 64):
        visitor.cookies = {f"paretune_{guarded.port}": cookie}
        assert visitor.get("/").status == 303


def test_the_cookie_is_read_by_no_script_and_sent_by_no_other_page(guarded: Visitor) -> None:
    cookie = stranger(guarded).log_in(WRITES).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    behind_tls = stranger(guarded).log_in(WRITES, x_forwarded_proto="https", origin=f"https://127.0.0.1:{guarded.port}")
    assert "Secure" in behind_tls.headers["set-cookie"]


def test_the_login_leads_nowhere_else(guarded: Visitor) -> None:
    for there in ("//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"):
        page = Page(stranger(guarded).get(f"/login?next={there}").text)
        (hidden,) = [given for tag, given in page.tags if tag == "input" and given.get("name") == "next"]
        assert hidden["value"] == "/"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "rebound.example:8080"},
        {"host": "127.0.0.1:1"},
        {"host": "127.0.0.1@evil.example"},
        {"host": "evil.example/login?"},
        {"host": None},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"},
    ],
    ids=str,
)
def test_other_pages_get_nothing(local: Visitor, headers: dict[str, str | None]) -> None:
    for path in ("/", "/assets/page.js", "/api/studies", "/dashboard/"):
        answer = stranger(local).get(path, **headers)
        assert answer.status in (400, 403)
        assert "replayed" not in answer.text


def test_a_link_can_be_followed_from_another_page(local: Visitor) -> None:
    headers = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert local.get("/", **headers).status == 200


def test_names_that_were_not_allowed_are_not_answered(guarded: Visitor) -> None:
    """Another page can have its name resolve to this machine, but an address is no name."""
    known = {"host": f"studies.example:{guarded.port}"}
    assert stranger(guarded).get("/login", **known).status == 200
    assert stranger(guarded).get("/login", host="192.0.2.7:8080").status == 200
    assert stranger(guarded).get("/login", host="evil.example").status == 403


@pytest.mark.parametrize(
    "headers",
    [{"x_csrf_token": ""}, {"x_csrf_token": "0" * 64}, {"origin": None}, {"origin": "http://evil.example"}],
    ids=str,
)
def test_what_writes_needs_the_token_of_the_page(local: Visitor, headers: dict[str, str | None]) -> None:
    visitor = stranger(local)
    visitor.open("/")
    writing = [path for method, path in routes() if method == "POST" and path not in ("/login", "/logout")]
    for path in writing:
        assert visitor.post(path, {}, **headers).status == 403, path


def test_every_answer_forbids_frames_and_foreign_scripts(local: Visitor) -> None:
    for method, path in routes():
        answer = (
            stranger(local).ask(method, path, host="evil.example" if method == "POST" else f"127.0.0.1:{local.port}")
            if path != "/events"
            else stranger(local).get("/nowhere")
        )
        assert answer.headers["content-security-policy"].endswith("frame-ancestors 'none'"), path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        if not path.startswith(("/dashboard", "/api", "/static", "/artifacts", "/csv")):
            assert "script-src 'self';" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/assets/..%2faccess.py",
        "/assets/%2e%2e/access.py",
        "/assets/page.js%00.css",
        "/studies/..%2f..%2fetc",
        "/studies/%2e%2e",
        "/studies/nothing",
        "/artifacts/1/2/..%2f..%2fetc%2fpasswd",
    ],
)
def test_no_path_leaves_its_folder(local: Visitor, path: str) -> None:
    answer = local.get(path)
    assert answer.status in (404, 409, 500)
    assert "import" not in answer.text


def test_an_address_for_others_needs_a_long_password(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lets other machines in, so it needs a password: set PARETUNE_PASSWORD"):
        Passwords().check("0.0.0.0")
    with pytest.raises(UserError, match="12 characters or more"):
        Passwords("short").check("192.0.2.1")
    with pytest.raises(UserError, match="must be different"):
        Passwords(WRITES, WRITES).check("127.0.0.1")
    Passwords().check("127.0.0.1")
    Passwords(WRITES, READS).check("0.0.0.0")


def test_passwords_come_from_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{WRITES}\n{READS}\n")
    file.chmod(0o644)
    with pytest.raises(UserError, match="can be read by others: chmod 600"):
        Passwords.given(file, {})
    file.chmod(0o600)
    assert Passwords.given(file, {}) == Passwords(WRITES, READS)
    assert Passwords.given(None, {"PARETUNE_PASSWORD": "a"}) == Passwords("a", None)
    with pytest.raises(UserError, match="cannot be read"):
        Passwords.given(tmp_path / "missing", {})


def test_sessions_end_with_the_server_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(Passwords(WRITES))
    session = access.new_session(Role.WRITE)
    assert access.session(session.cookie) == session
    assert Access(Passwords(WRITES)).session(session.cookie) is None
    monkeypatch.setattr("paretune.agent.review.app.access.time.time", lambda: 4e9)
    assert access.session(session.cookie) is None


def test_logging_out_ends_the_session_wherever_its_cookie_is(guarded: Visitor) -> None:
    visitor = stranger(guarded)
    visitor.log_in(WRITES)
    copied = stranger(guarded)
    copied.cookies = dict(visitor.cookies)
    assert copied.get("/").status == 200
    assert visitor.ask("POST", "/logout", b"", origin=guarded.root).status == 303
    assert copied.get("/").status == 303


def test_whoever_guesses_keeps_nobody_else_from_logging_in(guarded: Visitor) -> None:
    """Others wait for an address's own wrong passwords only, and more than a few of these are refused at once."""
    guesses: list[int] = []

    def guess(address: str) -> None:
        guesses.append(stranger(guarded).log_in("guessed", x_forwarded_for=address).status)

    threads = [threading.Thread(target=guess, args=("192.0.2.66",)) for _ in range(12)]
    for thread in threads:
        thread.start()
    while not guesses:  # the first refusals come at once
        time.sleep(0.01)
    assert stranger(guarded).log_in(WRITES, x_forwarded_for="192.0.2.7").status == 303
    assert guesses.count(401) < 3
    for thread in threads:
        thread.join()
    assert {401, 429} == set(guesses)


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("POST", "/studies/replayed/choose/2", b'{"by": "Ann", "note": "'),
        ("PUT", "/api/studies/1/note", b'{"version": 1, "body": "'),
    ],
)
def test_a_request_that_is_too_long_is_refused_unread(local: Visitor, method: str, path: str, said: bytes) -> None:
    visitor = stranger(local)
    visitor.open("/")
    answer = visitor.ask(
        method,
        path,
        said + b"a" * 1_000_000 + b'"}',
        origin=local.root,
        x_csrf_token=visitor.token,
        content_type="application/json",
    )
    assert answer.status == 413
    assert "256 KiB are the most" in answer.text


def test_a_proxy_on_this_machine_serves_it_under_its_own_name(folder: Path) -> None:
    """Listening on 127.0.0.1 behind a proxy lets other machines in all the same, so it needs a password."""
    with pytest.raises(
        UserError, match=r"--allow-name studies\.example lets other machines in, so it needs a password"
    ):
        Passwords().check("127.0.0.1", ["studies.example"])
    with served(url_of(folder), folder, Passwords(WRITES), names=["studies.example"]) as visitor:
        assert visitor.get("/login", host="studies.example").status == 200
        assert visitor.get("/login", host="other.example").status == 403


def test_slow_visitors_do_not_keep_others_from_anything(local: Visitor) -> None:
    """Half-sent requests, and readers who take nothing of Optuna's largest file."""
    slow = []
    try:
        for number in range(40):
            connection = socket.create_connection(("127.0.0.1", local.port))
            slow.append(connection)
            host = f"Host: 127.0.0.1:{local.port}\r\n"
            if number % 2:
                connection.sendall(
                    f"POST /login HTTP/1.1\r\n{host}Origin: {local.root}\r\nContent-Length: 9\r\n\r\np".encode()
                )
            else:
                connection.sendall(f"GET /static/bundle.js HTTP/1.1\r\n{host}\r\n".encode())
        for path in ("/", "/dashboard/", "/static/bundle.js"):
            assert local.get(path).status == 200
    finally:
        for connection in slow:
            connection.close()


def test_a_read_only_server_lets_nobody_write(folder: Path) -> None:
    with served(url_of(folder), folder, read_only=True) as visitor:
        visitor.open("/")
        note = visitor.ask("PUT", "/api/studies/1/note", b"{}", origin=visitor.root, content_type="application/json")
        assert note.status == 403


EVIL = """<!doctype html><title>evil</title><iframe id="frame" src="{root}/"></iframe><script>
window.read = {{}};
fetch("{root}/api/studies").then((a) => a.text()).then((t) => {{ read.api = t; }}, () => {{ read.api = "refused"; }});
fetch("{root}/studies/replayed/choose/2", {{method: "POST", mode: "no-cors", body: '{{"by": "evil"}}'}})
  .then(() => {{ read.sent = "sent"; }}, () => {{ read.sent = "refused"; }});
const image = new Image();
image.onload = () => {{ read.image = "loaded"; }};
image.onerror = () => {{ read.image = "refused"; }};
image.src = "{root}/studies/replayed/files/2/cat-0.png";
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_a_page_of_another_origin_gets_nothing_in_a_browser(local: Visitor, folder: Path) -> None:
    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(EVIL.format(root=local.root).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil) as server, Browser() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(f"{local.root}/")  # a visitor who is known there
        browser.open(f"http://127.0.0.1:{server.server_port}/")
        browser.wait_for("read.api && read.sent && read.image")
        assert browser.evaluate("read") == {"api": "refused", "sent": "refused", "image": "refused"}
        assert [said for said in browser.console if "frame" in said.lower()]
        server.shutdown()
    assert Records(url_of(folder)).choices("replayed") == []
