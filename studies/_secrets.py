"""What must never be stored or shown: passwords, tokens and keys, replaced by stars in whatever leaves the program."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

STARS = "***"
_SECRET_NAME = re.compile(
    r"(?i)(token|password|passwd|passphrase|secret|api_?key|access_?key|private_?key|credentials?)$"
)
"""Names of environment variables whose value is a secret."""
_NAMES = (
    r"(?:pgpassword|sslpassword|password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|secret[_-]?key|(?:hf|hub|api|access|auth|refresh|bearer|session|security|github)[_-]?token)"
)
"""What comes before it, as in DB_PASSWORD, is not looked at."""
_KEY = re.compile(rf"(?i)(?:.*[^a-z0-9])?{_NAMES}")
_USER = re.compile(r"//[^\s/:@]*:")
_WORD = re.compile(r"(?<!\S)\S+")
_LINE = r"[^\n|;&]{0,200}?"
"""What may stand between a program and its option."""
# Each is read once from left to right: none may look for its end from every place in a long text, because a process may
# print whatever it likes.
_PATTERNS = (
    (re.compile(r"(?i)(https?://)[^\s/:@]{1,500}@"), rf"\1{STARS}@"),
    (
        re.compile(r"(?i)([?&;](?:[\w-]{0,100}[_-])?(?:pass|pwd|token|key|sig|signature|auth)=)[^&;\s#\"']+"),
        rf"\1{STARS}",
    ),
    (re.compile(r"(?i)(\B--(?:[a-z]+-){0,9}(?:password|passphrase|token|secret|api-key)\s+)[^\s-]\S*"), rf"\1{STARS}"),
    # A short option is a password of these programs; mkdir -p and docker run -p mean something else.
    (
        re.compile(
            rf"(\b(?:sshpass|mysql\w{{0,20}}|mariadb\w{{0,20}}|(?:docker|podman|helm|az|oc) {_LINE}login)\b"
            rf"{_LINE}\s-p\s{{0,9}})[^\s-]\S*"
        ),
        rf"\1{STARS}",
    ),
    (re.compile(rf"(\bredis-cli\b{_LINE}\s-a\s{{1,9}})[^\s-]\S*"), rf"\1{STARS}"),
    (re.compile(rf"(\bcurl\b{_LINE}\s(?:-u|--user)\s{{0,9}}[^\s:]{{1,100}}:)\S+"), rf"\1{STARS}"),
    # A name, a space and the value: in quotes (SQL), after what sets it (.netrc, a Dockerfile), or with a digit in it.
    # Other words are prose: "HF_TOKEN is not set".
    (
        re.compile(
            rf"(?i)((?<![a-z0-9])(?:{_NAMES}|identified by)[ \t]{{1,9}})(?:\"[^\"\n]{{1,500}}\"|'[^'\n]{{1,500}}')"
        ),
        rf"\1{STARS}",
    ),
    (re.compile(r"(?i)(\b(?:login\s{1,9}\S{1,100}\s{1,9}password|requirepass|masterauth)\s{1,9})\S+"), rf"\1{STARS}"),
    (
        re.compile(rf"(?i)(\b(?:env|export|set|setx|arg)\s{{1,9}}(?:\w{{1,50}}_)?{_NAMES}[ \t]{{1,9}})[^\s=:]\S*"),
        rf"\1{STARS}",
    ),
    (
        re.compile(
            r"((?<![A-Za-z0-9])(?:PGPASSWORD|PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_KEY|ACCESS_KEY)[ \t]{1,9})"
            r"(?=[A-Za-z]{0,100}[0-9])[^\s\"',;)\]}]{4,}"
        ),
        rf"\1{STARS}",
    ),
    (re.compile(r"(?i)(\b(?:set-)?cookie[\"']?\s{0,9}:\s{0,9})[^\n\"']+"), rf"\1{STARS}"),
    (re.compile(r"(-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----).*?(-----END|\Z)", re.DOTALL), rf"\1{STARS}\2"),
    (
        re.compile(r"(?i)(\bauthorization[\"']?\s{0,9}[:=]\s{0,9}[\"']?(?:(?:bearer|basic|token)\s{1,9})?)[^\s\"',]+"),
        rf"\1{STARS}",
    ),
    (re.compile(r"(?i)(\bbearer\s{1,9})[\w.~+/=-]{8,}"), rf"\1{STARS}"),
    (
        re.compile(
            rf"(?i)((?<![a-z0-9]){_NAMES}[\"']?\s{{0,9}}[=:]\s{{0,9}})"
            rf"(?!(?:none|null|true|false)\b|\*\*\*)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"'&;,)\]}}]+)"
        ),
        rf"\1{STARS}",
    ),
    (re.compile(r"(?i)((?<![a-z0-9_-])token[\"']?\s{0,9}[=:]\s{0,9}[\"']?)[\w.~+/=-]{16,}"), rf"\1{STARS}"),
    (re.compile(r"hf_\w+"), f"hf_{STARS}"),
    (re.compile(r"\b(sk-|gh[opsur]_|github_pat_|glpat-|xox[abprs]-|AKIA)[\w-]{12,}"), rf"\1{STARS}"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"), STARS),
)


_given: set[str] = set()


def keep_secret(url: str) -> None:
    """Star the passwords in the URL of a database from now on, wherever they stand: it was given to this process, and
    whoever fails to use it may quote any part of it.
    """
    _given.update(password for password in _passwords_of(url) if len(password) >= 4)


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text with stars for every secret in it: passwords in URLs and settings, tokens and keys in the known forms, and
    whatever the environment (by default this process's) calls one.

    Every way out of the program goes through this: what is printed, what is stored of a failure, what is served.
    """
    if not text:
        return text
    for secret in _secrets_of(os.environ if environment is None else environment):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", STARS, text)
    if "@" in text:
        text = _WORD.sub(_without_password, text)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def _without_password(word: re.Match[str]) -> str:
    """A word with stars for the password of the URL in it."""
    found = _password_in(word[0])
    return word[0] if found is None else f"{word[0][: found[0]]}{STARS}{word[0][found[1] :]}"


def _password_in(word: str) -> tuple[int, int] | None:
    """Where the password of a URL begins and ends: up to the last @, because a password may hold one, though a URL
    should have it as %40.
    """
    end = word.rfind("@")
    found = _USER.search(word, 0, end) if end > 0 else None
    return None if found is None else (found.end(), end)


def plain_without_secrets(data: Any) -> Any:
    """The same for every text in plain data."""
    if isinstance(data, str):
        return without_secrets(data)
    if isinstance(data, Mapping):
        return {
            key: STARS if isinstance(value, str) and _KEY.fullmatch(str(key)) else plain_without_secrets(value)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [plain_without_secrets(value) for value in data]
    return data


def _secrets_of(environment: Mapping[str, str]) -> list[str]:
    """The longest first, so that none leaves a part of another."""
    found: set[str] = set()
    for password in _given:
        found |= {password, quote(password, safe=""), unquote(password)}
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= 6:
            found |= {value, quote(value, safe=""), unquote(value)}
        for password in _passwords_of(value):
            found |= {password, quote(password, safe=""), unquote(password)}
    return sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True)


def _passwords_of(url: str) -> Iterator[str]:
    """The passwords in a URL that are not also its user's name, which would be starred wherever it stands."""
    # The whole of it, where it is one URL with a space in its password, and each word, where it has several.
    for word in {url, *_WORD.findall(url)}:
        if (found := _password_in(word)) is not None:
            password = word[found[0] : found[1]]
            if not word[: found[0]].endswith(f"//{password}:"):
                yield password
    if "://" in url:
        yield from (match[1] for match in re.finditer(r"(?i)[?&](?:ssl)?password=([^&#]+)", url))
