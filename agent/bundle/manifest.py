"""A bundle's manifest: what is part of it, and that nothing was changed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...objectives.fingerprint import Fingerprint
from ...studies import UserError, sha256

MANIFEST = "manifest.json"
SCHEMA_VERSION = 3
"""Of the manifest and of evidence/measurements.json; since 3, the evidence has the `figures` that are shown."""


def files_of(folder: Path) -> list[str]:
    """Every file of a bundle but its manifest, relative, sorted. Byte code and pictures of a check are not part."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(str(file) for file in files if str(file) != MANIFEST and "__pycache__" not in file.parts)


def digests(folder: Path) -> dict[str, str]:
    """{file: SHA-256} of everything in a bundle but its manifest."""
    return {name: sha256(folder / name) for name in files_of(folder)}


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle and nothing else: only then may it be replaced."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return "configuration_key" in manifest and set(files_of(folder)) <= set(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, after checking every file against it. Raises UserError."""
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(f"{folder} is not a bundle: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
        expected: Mapping[str, str] = dict(manifest["sha256"])
        Fingerprint.from_dict(manifest["fingerprint"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} is damaged: export the bundle again") from None
    if manifest.get("schema") != SCHEMA_VERSION:
        raise UserError(
            f"{file} has schema {manifest.get('schema')!r}; this version reads {SCHEMA_VERSION}: export it again"
        )
    present = set(files_of(folder))
    for name, digest in expected.items():
        if name not in present:
            raise UserError(f"{folder}: {name} is missing; export the bundle again")
        if sha256(folder / name) != digest:
            raise UserError(f"{folder}: {name} was changed after the export; export the bundle again")
    if extra := sorted(present - set(expected)):
        raise UserError(f"{folder}: {extra[0]} is not part of the bundle; remove it or export again")
    return manifest
