"""A bundle's manifest: the closed list of the files that are a bundle, each with its size and its SHA-256.

It finds damage, not forgery: whoever changes a file can write a new manifest. Only its signature (signing.py), checked
with a key that was trusted before, says who wrote it.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ...objectives.fingerprint import Fingerprint
from ...studies import UserError, sha256
from .contents import MOST_BYTES, Content, Finite, MachineFacts, parse_json, read_whole
from .trust import MANIFEST, SIGNATURE, ArtefactError, check_signature

SCHEMA_VERSION = 4
"""Of the manifest and of evidence/measurements.json. Since 3, the evidence has the `figures` that are shown; since 4,
the manifest has the size of every file, and a bundle has no paths of the machine that exported it."""
MOST_FILES = 10_000
MOST_BYTES_IN_ALL = 16 << 30
IMPORTED = (".pyc", *EXTENSION_SUFFIXES)
"""Files that Python imports and nobody can read."""
NEEDED = ("apply.py", "configuration.yaml", "check/run.py", "check/workload.json", "evidence/measurements.json")
"""Without these, nothing can be verified."""


class Entry(Content):
    """One file of a bundle."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0, le=MOST_BYTES)]


class Manifest(Content):
    """The content of manifest.json."""

    schema_version: Literal[4] = Field(alias="schema")
    created_at: str
    study: str
    trial: Annotated[int, Field(ge=0)]
    configuration_key: str
    confirmed: bool
    figures: dict[str, Finite]
    fingerprint: MachineFacts
    files: Annotated[dict[str, Entry], Field(max_length=MOST_FILES)]
    """{path within the bundle: its entry}, for every file but the manifest itself and its signature."""

    @field_validator("files")
    @classmethod
    def _within(cls, files: dict[str, Entry]) -> dict[str, Entry]:
        for name in files:
            path = PurePosixPath(name)
            if (
                not path.parts
                or path.is_absolute()
                or ".." in path.parts
                or str(path) != name
                or name in (MANIFEST, SIGNATURE)
                or "\0" in name
            ):
                raise ValueError(f"{name!r} is no path within the bundle")
            if (shadowed := _shadowed_by(path, files)) is not None:
                raise ValueError(f"Python would run {name!r} instead of {shadowed}")
        if sum(entry.size_bytes for entry in files.values()) > MOST_BYTES_IN_ALL:
            raise ValueError(f"more than {MOST_BYTES_IN_ALL >> 30} GiB in all")
        if missing := [name for name in NEEDED if name not in files]:
            raise ValueError(f"{missing[0]} is not listed")
        return files

    def machine(self) -> Fingerprint:
        """What the evidence was measured on."""
        return Fingerprint.from_dict(self.fingerprint.model_dump())


def files_of(folder: Path) -> list[str]:
    """Every file of a bundle but its manifest and the signature, relative, sorted. Links are not followed.

    Raises UserError for anything else than files and folders, and for what cannot be read.
    """
    return sorted(name for name in _walk(folder) if name not in (MANIFEST, SIGNATURE))


def entries_of(folder: Path) -> dict[str, dict[str, str | int]]:
    """What a manifest says of the files that are in a folder now."""
    return {
        name: {"sha256": sha256(folder / name), "size_bytes": (folder / name).stat().st_size}
        for name in files_of(folder)
    }


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle and nothing that would be lost with it: only then may it be replaced."""
    try:
        listed = parse_json(Manifest, read_whole(folder / MANIFEST), folder / MANIFEST).files
        return all(name in listed or _is_byte_code(PurePosixPath(name)) for name in files_of(folder))
    except UserError:
        return False


def read_manifest(folder: Path, trusted_key: Path | None = None) -> Manifest:
    """The manifest, after checking that the bundle has the files that it lists, and no others; and with a public key
    that it was signed with the private half of that, before anything in it is believed. Raises UserError.
    """
    file = folder / MANIFEST
    if not _is_file(file):
        raise UserError(f"{folder} is not a bundle: it has no {MANIFEST}")
    content = read_whole(file)
    if trusted_key is not None:
        try:
            check_signature(content, folder, trusted_key)
        except ArtefactError as error:
            raise UserError(str(error)) from None
    manifest = parse_json(Manifest, content, file, schema=SCHEMA_VERSION)
    present = set(files_of(folder))
    if missing := sorted(set(manifest.files) - present):
        raise UserError(f"{folder}: {shown_name(missing[0])} is missing; export the bundle again")
    if extra := sorted(present - set(manifest.files)):
        raise UserError(f"{folder}: {_extra_words(extra)}")
    return manifest


def shown_name(name: str) -> str:
    """A file's name as it can stand in a sentence, whatever it holds."""
    shown = name if name.isprintable() else ascii(name)
    return shown if len(shown) <= 120 else f"{shown[:120]} ..."


def _extra_words(extra: list[str]) -> str:
    if all(_is_byte_code(PurePosixPath(name)) for name in extra):
        # The usual way to come by it; it is refused all the same, because Python runs it instead of the source.
        return (
            f"{shown_name(extra[0])} is not part of the bundle: Python leaves such byte code where it imports, and "
            "would run it whatever it holds; delete every __pycache__ folder in the bundle"
        )
    return f"{shown_name(extra[0])} is not part of the bundle; remove it or export again"


def _is_byte_code(path: PurePosixPath) -> bool:
    return path.parent.name == "__pycache__" and path.suffix == ".pyc"


def _shadowed_by(path: PurePosixPath, files: Mapping[str, object]) -> str | None:
    """The listed source in whose place Python would import what lies there: byte code, an extension, a package."""
    if path.parent.name == "__pycache__":
        return f"{path.parent.parent / path.name.partition('.')[0]}.py"
    for place in (path, *path.parents):
        if place.name and (place is not path or place.name.endswith(IMPORTED)):
            source = f"{place.parent / place.name.partition('.')[0]}.py"
            if source in files:
                return source
    return None


def _is_file(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _walk(folder: Path) -> Iterator[str]:
    unread, seen = [folder], 0
    while unread:
        place = unread.pop()
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{place} cannot be read ({error.strerror})") from None
        for entry in found:
            seen += 1
            if seen > 2 * MOST_FILES:
                raise UserError(f"{folder} is not a bundle: it holds more than {MOST_FILES} files")
            if entry.is_dir(follow_symlinks=False):
                unread.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield str(Path(entry.path).relative_to(folder))
            else:
                what = "a link" if entry.is_symlink() else "neither a file nor a folder"
                name = shown_name(str(Path(entry.path).relative_to(folder)))
                raise UserError(f"{folder}: {name} is {what}, which a bundle never holds; export the bundle again")
