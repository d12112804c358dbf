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
    r"(?:[a-z0-9]+[_-])*(?:pgpassword|sslpassword|password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|secret[_-]?key|(?:hf|hub|api|access|auth|refresh|bearer|session|security|github)[_-]?token)"
)
_URL = re.compile(r"(//[^\s/:@]*:)(\S*)@")
"""Up to the last @: a password may hold one, though a URL should have it as %40."""
_PATTERNS = (
    (_URL, rf"\1{STARS}@"),
    (re.compile(r"(?i)(https?://)[^\s/:@]+@"), rf"\1{STARS}@"),
    (re.compile(r"(?i)([?&;](?:[\w-]*[_-])?(?:pass|pwd|token|key|sig|signature|auth)=)[^&;\s#\"']+"), rf"\1{STARS}"),
    (re.compile(r"(?i)(\B--(?:[a-z]+-)*(?:password|passphrase|token|secret|api-key)\s+)[^\s-]\S*"), rf"\1{STARS}"),
    (re.compile(r"(?i)(\b(?:set-)?cookie[\"']?\s*:\s*)[^\n\"']+"), rf"\1{STARS}"),
    (re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END|\Z)", re.DOTALL), rf"\1{STARS}\2"),
    (re.compile(r"(?i)(\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token)\s+)?)[^\s\"',]+"), rf"\1{STARS}"),
    (re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{8,}"), rf"\1{STARS}"),
    (
        re.compile(
            rf"(?i)(?<![a-z0-9])({_NAMES}[\"']?\s*[=:]\s*)"
            rf"(?!(?:none|null|true|false)\b|\*\*\*)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"'&;,)\]}}]+)"
        ),
        rf"\1{STARS}",
    ),
    (re.compile(r"(?i)((?<![a-z0-9_-])token[\"']?\s*[=:]\s*[\"']?)[\w.~+/=-]{16,}"), rf"\1{STARS}"),
    (re.compile(r"hf_\w+"), f"hf_{STARS}"),
    (re.compile(r"\b(sk-|gh[opsur]_|github_pat_|glpat-|xox[abprs]-|AKIA)[\w-]{12,}"), rf"\1{STARS}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"), STARS),
)


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text with stars for every secret in it: passwords in URLs and settings, tokens and keys in the known forms, and
    whatever the environment (by default this process's) calls one.

    Every way out of the program goes through this: what is printed, what is stored of a failure, what is served.
    """
    if not text:
        return text
    for secret in _secrets_of(os.environ if environment is None else environment):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", STARS, text)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def plain_without_secrets(data: Any) -> Any:
    """The same for every text in plain data."""
    if isinstance(data, str):
        return without_secrets(data)
    if isinstance(data, Mapping):
        return {key: plain_without_secrets(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain_without_secrets(value) for value in data]
    return data


def _secrets_of(environment: Mapping[str, str]) -> list[str]:
    """The longest first, so that none leaves a part of another."""
    found: set[str] = set()
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= 6:
            found |= {value, quote(value, safe=""), unquote(value)}
        for password in _passwords_of(value):
            found |= {password, quote(password, safe=""), unquote(password)}
    return sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True)


def _passwords_of(url: str) -> Iterator[str]:
    """The passwords in a URL that are not also its user's name, which would be starred wherever it stands."""
    for match in re.finditer(r"://([^\s/:@]*):(\S*)@", url):
        if match[2] != match[1]:
            yield match[2]
    if "://" in url:
        yield from (match[1] for match in re.finditer(r"(?i)[?&](?:ssl)?password=([^&\s#]+)", url))
