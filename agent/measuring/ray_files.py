"""The files that a job needs, sent to a place once each by their content, and those that come back."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...studies import own_files
from ..trial import KEPT, LATENTS, PICTURES, RESULT, Job, write_json

MOST_BYTES = 2**30
"""Of a trial's folder that comes back: a thousand pictures of 1024 pixels."""


@dataclass(frozen=True)
class Folder:
    """Files of one folder of the launching machine."""

    root: str
    sha256: Mapping[str, str]
    """By path relative to the folder."""

    @property
    def key(self) -> str:
        """The same for the same content."""
        return hashlib.sha256(json.dumps(dict(self.sha256), sort_keys=True).encode()).hexdigest()[:16]


class Digests:
    """SHA-256 of files, worked out again only where a file has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}

    def of(self, file: Path) -> str:
        """Raises OSError."""
        found = file.stat()
        key = str(file), found.st_mtime_ns, found.st_size
        if key not in self._known:
            self._known[key] = hashlib.sha256(file.read_bytes()).hexdigest()
        return self._known[key]


class Outgoing:
    """What the launching machine has sent: each content once, however many jobs need it."""

    def __init__(self, put: Callable[[bytes], Any]) -> None:
        """put: into the object store; what it returns is a reference."""
        self._put = put
        self._digests = Digests()
        self._sent: dict[str, Any] = {}

    def of(self, job: Job) -> tuple[list[Folder], dict[str, Any]]:
        """The folders that a job reads of, and {sha256: reference} of their files. Models and weights are not sent:
        they lie at the same path of each node, or come from the hub.
        """
        return self.files(_needed(job.workload, [*job.technique_files, *job.metric_files], job.reference_pictures))

    def files(self, needed: Iterable[tuple[Path, Iterable[Path]]]) -> tuple[list[Folder], dict[str, Any]]:
        """The same of files, by folder."""
        by_root: dict[Path, dict[str, str]] = {}
        references = {}
        for root, files in needed:
            for file in files:
                digest = by_root.setdefault(root, {})[str(file.relative_to(root))] = self._digests.of(file)
                if digest not in self._sent:
                    self._sent[digest] = self._put(file.read_bytes())
                references[digest] = self._sent[digest]
        return [Folder(str(root), digests) for root, digests in by_root.items()], references


class Incoming:
    """The same files at a place."""

    def __init__(self, folder: Path, get: Callable[[Any], bytes]) -> None:
        """folder: where they are written; get: the bytes of a reference."""
        self._folder = folder
        self._get = get
        self._digests = Digests()

    def place(self, wanted: Folder, references: Mapping[str, Any]) -> Path:
        """Where a folder's files are. Where the original is, unchanged, it is used: it may read what lies beside it."""
        original = Path(wanted.root)
        with suppress(OSError):
            if all(self._digests.of(original / name) == digest for name, digest in wanted.sha256.items()):
                return original
        copy = self._folder / wanted.key
        for name, digest in wanted.sha256.items():
            if not (copy / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                temporary = copy / f"{name}.new"
                temporary.write_bytes(self._get(references[digest]))
                temporary.replace(copy / name)
        return copy


def moved(job: Job, places: Mapping[str, Path]) -> Job:
    """A job whose files lie elsewhere. places: {folder of the launching machine: folder here}."""

    def there(path: str) -> str:
        for root, local in sorted(places.items(), key=lambda one: -len(one[0])):  # the innermost folder's first
            if Path(path).is_relative_to(root):
                return str(local / Path(path).relative_to(root))
        return path

    reference = job.reference_pictures
    return replace(
        job,
        workload=moved_workload(job.workload, there),
        technique_files=[there(file) for file in job.technique_files],
        metric_files=[there(file) for file in job.metric_files],
        reference_pictures=None if reference is None else there(reference),
    )


def moved_workload(workload: Mapping[str, Any], there: Callable[[str], str]) -> dict[str, Any]:
    """A workload's description with its files elsewhere."""
    requests = [
        {**one, **{key: there(one[key]) for key in ("image", "mask_image") if one.get(key) is not None}}
        for one in workload["requests"]
    ]
    found = {**workload, "requests": requests}
    if "python" in workload:
        found["python"] = there(workload["python"])
    if "pipelines" in workload:
        found["pipelines"] = {
            name: {**spec, "config": there(spec["config"])} if spec.get("config") else spec
            for name, spec in workload["pipelines"].items()
        }
    return found


def _needed(
    workload: Mapping[str, Any], python: Iterable[str], reference: str | None
) -> Iterable[tuple[Path, Iterable[Path]]]:
    for file in [*([workload["python"]] if "python" in workload else []), *python]:
        yield Path(file).parent, own_files(Path(file)).values()
    for request in workload["requests"]:
        for key in ("image", "mask_image"):
            if request.get(key) is not None:
                yield Path(request[key]).parent, [Path(request[key])]
    for spec in workload.get("pipelines", {}).values():
        if spec.get("config"):
            yield Path(spec["config"]), sorted(Path(spec["config"]).rglob("*.json"))
    if reference is not None:
        trial = Path(reference).parent
        kept = [trial / PICTURES, trial / LATENTS]
        yield trial, sorted(file for folder in kept for file in folder.glob("*") if file.is_file())


def packed(folder: Path, place: str) -> bytes:
    """What a trial has left in its folder, as a tar file; its result.json says where it was made.

    Raises ValueError when it is too much.
    """
    files = [file for name in KEPT for file in _files(folder / name)]
    size = sum(file.stat().st_size for file in files)
    if size > MOST_BYTES:
        raise ValueError(f"the trial has left {size / 2**20:.0f} MiB, over the limit of {MOST_BYTES / 2**20:.0f} MiB")
    if (folder / RESULT).is_file():
        with suppress(ValueError):
            write_json(folder / RESULT, {**json.loads((folder / RESULT).read_text()), "place": place})
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for file in files:
            archive.add(file, arcname=str(file.relative_to(folder)), recursive=False)
    return written.getvalue()


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*")) if path.is_dir() else [path] if path.is_file() else []


def unpack(archive: bytes, folder: Path) -> None:
    """Write a tar file's files into a folder, and nothing outside of it. Raises tarfile.TarError."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(folder, filter="data")
