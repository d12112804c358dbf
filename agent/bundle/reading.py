"""Reads a bundle once: every listed file is checked while it is copied, and only the copy is used."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...objectives.noise_floor import NoiseFloor
from ...studies import PackedWorkloadSpec, UserError
from .contents import (
    MOST_TEXT_BYTES,
    MOST_YAML_BYTES,
    ConfigurationText,
    Evidence,
    check_picture,
    parse_json,
    parse_yaml,
    read_whole,
)
from .manifest import Entry, Manifest, read_manifest, shown_name
from .trust import ARTEFACTS, MANIFEST

WINNER = "evidence/winner"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file is as its manifest says, and can be understood."""

    folder: Path
    """The copy: exactly the listed files, and their list."""
    manifest: Manifest
    evidence: Evidence
    workload: PackedWorkloadSpec
    pictures: tuple[Path, ...]
    """Of the exported trial, by name."""

    @property
    def announced_captures(self) -> int | None:
        """How many CUDA graphs a process captures until it has served every request; None where nobody counted."""
        ways = [] if self.evidence.artefacts is None else self.evidence.artefacts.ways
        return ways[0].captures if ways else None

    @property
    def kept_way(self) -> str | None:
        """The way in which it keeps compiled code (ways.WAYS); None where it has none."""
        ways = [] if self.evidence.artefacts is None else self.evidence.artefacts.ways
        return ways[0].name if ways and (self.folder / ARTEFACTS).is_dir() else None

    @property
    def floor(self) -> NoiseFloor | None:
        """The noise floor of the study; None where it was not measured."""
        stored = self.evidence.noise_floor
        return None if stored is None else NoiseFloor.from_dict(stored.model_dump())


def open_bundle(folder: Path, copy: Path, trusted_key: Path | None = None) -> Bundle:
    """Check a bundle and copy what its manifest lists into the new folder `copy`.

    Nothing in it is followed or run: links, pipes and devices are refused, and so is every file that is not listed or
    larger than listed, before it is read. With `trusted_key`, a public key, the manifest has to be signed with it.
    Raises UserError.
    """
    try:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a bundle: it has no manifest.json")
    except OSError as error:
        raise UserError(f"{folder} is not a bundle: {error.strerror}") from None
    manifest = read_manifest(folder, trusted_key)
    for name, entry in manifest.files.items():
        _copy(folder, name, entry, copy / name)
    # What loads artefacts compares them with the manifest beside it; this is the one that was checked.
    listed = {name: entry.model_dump() for name, entry in manifest.files.items()}
    (copy / MANIFEST).write_text(json.dumps({"schema": manifest.schema_version, "files": listed}))

    def said(name: str) -> Path:
        return folder / name

    name = "evidence/measurements.json"
    evidence = parse_json(Evidence, read_whole(copy / name), said(name))
    name = "check/workload.json"
    workload = parse_json(PackedWorkloadSpec, read_whole(copy / name), said(name))
    if workload.python is not None and f"check/{workload.python}" not in manifest.files:
        raise UserError(f"{said(name)} is damaged: export the bundle again ({workload.python} is not in the bundle)")
    name = "configuration.yaml"
    parse_yaml(ConfigurationText, read_whole(copy / name, MOST_YAML_BYTES), said(name))
    pictures = tuple(copy / name for name in sorted(_pictures_in(manifest, folder)))
    for picture in pictures:
        check_picture(read_whole(picture, MOST_TEXT_BYTES), said(str(picture.relative_to(copy))))
    return Bundle(copy, manifest, evidence, workload, pictures)


def _pictures_in(manifest: Manifest, folder: Path) -> Iterator[str]:
    for name in manifest.files:
        path = Path(name)
        if str(path.parent) != WINNER:
            continue
        request, separator, place = path.stem.rpartition("-")
        if path.suffix != ".png" or not (request and separator and place.isascii() and place.isdigit()):
            raise UserError(f"{folder}: {shown_name(name)} is not called as a picture is, such as cat-0.png")
        yield name


def _copy(folder: Path, name: str, entry: Entry, target: Path) -> None:
    """Copy one file, not through links, and no more of it than the manifest says."""
    changed = UserError(f"{folder}: {shown_name(name)} was changed after the export; export the bundle again")
    digest, left = hashlib.sha256(), entry.size_bytes
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as source:
            found = os.fstat(source.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size_bytes:
                raise changed
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as written:
                while left > 0 and (chunk := source.read(min(CHUNK, left))):
                    digest.update(chunk)
                    written.write(chunk)
                    left -= len(chunk)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: {shown_name(name)} cannot be read ({getattr(error, 'strerror', None)})") from None
    if left or digest.hexdigest() != entry.sha256:
        raise changed
