"""Who may see and do what: passwords, sessions and roles, and which hosts and origins are answered at all."""

import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from ....studies import UserError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
LEAST_LENGTH = 12
"""Of a password by which other machines get in."""
SESSION_S = 12 * 3600
PASSWORD, READ_PASSWORD = "PARETUNE_PASSWORD", "PARETUNE_READ_PASSWORD"


class Role(StrEnum):
    """What a visitor may do."""

    READ = "read"
    """Look at everything."""
    WRITE = "write"
    """Rate, choose, export and write notes too."""


@dataclass(frozen=True)
class Passwords:
    """What lets visitors in; without any, everybody is in who reaches the server."""

    write: str | None = None
    read: str | None = None

    def __bool__(self) -> bool:
        return self.write is not None or self.read is not None

    @classmethod
    def given(cls, file: Path | None, environment: Mapping[str, str] = os.environ) -> "Passwords":
        """From a file (its first line may write, its second one may read) or, without one, the environment.

        Raises UserError for a file that cannot be read, has no password, or can be read by others.
        """
        if file is None:
            return cls(environment.get(PASSWORD) or None, environment.get(READ_PASSWORD) or None)
        try:
            others = file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the password file {file} cannot be read ({error})") from None
        if others:
            raise UserError(f"the password file {file} can be read by others: chmod 600 {file}")
        first, second, *_ = *(line.strip() for line in lines), "", ""
        if not first:
            raise UserError(f"the password file {file} has no password in its first line")
        return cls(first, second or None)

    def check(self, host: str, names: Iterable[str] = ()) -> None:
        """Raise UserError where they do not suffice: other machines need a password, and a long one.

        names: under which a proxy serves it, which lets other machines in whatever the address is.
        """
        if self.write is not None and self.write == self.read:
            raise UserError("the password that may write and the one that may only read must be different")
        let_in = [*(() if host in LOOPBACK else (f"--host {host}",)), *(f"--allow-name {name}" for name in names)]
        if not let_in:
            return
        if not self:
            raise UserError(
                f"{let_in[0]} lets other machines in, so it needs a password: set {PASSWORD} (and {READ_PASSWORD} "
                "for those who may only look), or name a --password-file"
            )
        if any(len(one) < LEAST_LENGTH for one in (self.write, self.read) if one is not None):
            raise UserError(f"{let_in[0]} lets other machines in: a password needs {LEAST_LENGTH} characters or more")

    def role_of(self, password: str) -> Role | None:
        """The role that a password gives, or None. Takes as long for every password."""
        matches = {
            role: known is not None and hmac.compare_digest(_digest(password), _digest(known))
            for role, known in ((Role.WRITE, self.write), (Role.READ, self.read))
        }
        return next((role for role, matched in matches.items() if matched), None)


@dataclass(frozen=True)
class Session:
    """A visitor, as the cookie says."""

    cookie: str
    role: Role


class Access:
    """The rules of one running server. Sessions are signed; only those that were logged out are kept. All of them end
    with the server at the latest.
    """

    def __init__(
        self,
        passwords: Passwords,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        names: Iterable[str] = (),
        read_only: bool = False,
    ) -> None:
        """names: host names under which it may be reached, besides addresses and this machine's own name."""
        self.passwords = passwords
        self.local = host in LOOPBACK
        self.read_only = read_only
        self.cookie_name = f"paretune_{port}"  # ports of one host share their cookies
        self._port = port
        own = () if self.local else ("localhost", socket.gethostname(), socket.getfqdn())
        self._names = {name.lower() for name in (*own, *names)}
        self._secret = secrets.token_bytes(32)
        self._logged_out: dict[str, int] = {}
        """Cookies, and when they would have ended."""

    def answers(self, host: str) -> bool:
        """Whether a request with this Host header is answered.

        Another web page can have its own name resolve to this machine and would then read everything as if it were one
        of ours. It cannot do that with an address, or with a name that is not its own.
        """
        parts = _split(host)
        if parts is None:
            return False
        name, port = parts
        if name in self._names:
            return True  # a proxy has a port of its own
        if self.local:
            return name in LOOPBACK and (port or 80) == self._port
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def is_own(self, origin: str, host: str) -> bool:
        """Whether an Origin header names the server itself, as the Host header does."""
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()

    def new_session(self, role: Role) -> Session:
        """A session that lasts half a day."""
        plain = f"{role}.{int(time.time()) + SESSION_S}.{secrets.token_urlsafe(16)}"
        return Session(f"{plain}.{self._sign(plain)}", self._least(role))

    def session(self, cookie: str | None) -> Session | None:
        """Of a cookie; None for none, one that is over, and one that was not made here."""
        plain, _, signature = (cookie or "").rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(plain).encode()):
            return None
        if cookie is None or cookie in self._logged_out:
            return None
        role, ends, _ = plain.split(".", 2)
        return None if int(ends) < time.time() else Session(cookie, self._least(Role(role)))

    def log_out(self, session: Session) -> None:
        """End a session, wherever else its cookie may be by now."""
        now = int(time.time())
        self._logged_out = {cookie: ends for cookie, ends in self._logged_out.items() if ends > now}
        self._logged_out[session.cookie] = now + SESSION_S

    def token(self, session: Session) -> str:
        """What a page of this session sends with whatever it writes; no other page knows it."""
        return self._sign(f"csrf {session.cookie}")

    def is_token(self, session: Session, token: str) -> bool:
        """In constant time."""
        return hmac.compare_digest(self.token(session).encode(), token.encode())

    def _least(self, role: Role) -> Role:
        return Role.READ if self.read_only else role

    def _sign(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _split(host: str) -> tuple[str, int | None] | None:
    """The name and the port of a Host header; None for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        return (parts.hostname, parts.port) if parts.hostname and parts.netloc == host and "@" not in host else None
    except ValueError:
        return None
