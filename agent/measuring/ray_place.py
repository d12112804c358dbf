"""One place of Ray: an actor that runs one job at a time, each in processes of its own, as a launch here does."""

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from ...studies import Outcome, UserError
from ..bundle import Verification, verify
from ..trial import (
    COMPILED,
    Executor,
    Job,
    TrialResult,
    cold_import_s,
    measure_cold_start,
    run_folder,
    write_trial_folder,
)
from .ray_files import Folder, Incoming, moved, packed, unpack

SCRATCH = "paretune-place-"
"""Folders of places, each followed by the process that owns it."""
COMPILED_KEPT = 12
"""Configurations whose compiled code a place keeps, for blocks and more pictures: it can be hundreds of MB each."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")


@dataclass(frozen=True)
class Share:
    """What a place has of its machine."""

    index: int
    """Among the places of its machine."""
    places: int
    """How many it has."""
    threads: int | None = None
    """At most so many; by default its part of the cores."""


@dataclass(frozen=True)
class Described:
    """What a place says of itself."""

    name: str
    node: str
    """Ray's name of its node."""
    code: str
    """SHA-256 of paretune's source there."""


class PlaceActor:
    """Its methods are called by Ray: one that runs something at a time, and `ping` meanwhile."""

    def __init__(self) -> None:
        _sweep()
        self._scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))
        self._incoming = Incoming(self._scratch / "files", _get)
        self._executor: Executor | None = None
        self._classes: list[str] = []
        self._share = Share(0, 1)

    def open(self, share: Share, device: str) -> Described:
        """Take a share of the machine."""
        import ray

        self._share = share
        cores = sorted(os.sched_getaffinity(0))
        part = max(1, len(cores) // share.places)
        threads = part if share.threads is None else min(part, share.threads)
        os.environ.update(dict.fromkeys(THREADS, str(threads)))
        on_gpu = device.startswith("cuda")
        if not on_gpu and share.places > 1 and len(cores) >= share.places:
            # A GPU's place stays free to use the cores that lie near the GPU.
            os.sched_setaffinity(0, cores[share.index * part : (share.index + 1) * part])
        which = f"gpu{os.environ.get('CUDA_VISIBLE_DEVICES', share.index)}" if on_gpu else str(share.index)
        return Described(f"{platform.node()}-{which}", ray.get_runtime_context().get_node_id(), source_digest())

    def serve(
        self, device: str, classes: Sequence[str], deadlines_s: Mapping[str, float], host_memory_gib: float | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start the fork server (see Executor), another one for each study. Returns the fingerprint, and the interfaces
        of the pipelines.

        Raises UserError when it cannot start.
        """
        if self._executor is not None:
            self._executor.close()
        if host_memory_gib is None and self._share.places > 1:
            host_memory_gib = 0.9 * psutil.virtual_memory().available / 2**30 / self._share.places
        self._classes = list(classes)
        self._executor = Executor(device, self._classes, deadlines_s, host_memory_gib)
        return self._executor.fingerprint.to_dict(), self._executor.interfaces

    def run(
        self, job: Job, folders: Sequence[Folder], references: Mapping[str, Any], name: str
    ) -> tuple[TrialResult, bytes | None]:
        """Run one job; what it leaves comes back where somebody looks at it. name: the place's."""
        assert self._executor is not None
        folder = self._folder(job.folder)
        try:
            here = moved(job, {one.root: self._incoming.place(one, references) for one in folders})
            compiled = self._compiled(job.compiled or str(Path(job.folder) / COMPILED), new=job.compiled is None)
            here = replace(here, folder=str(folder), compiled=str(compiled))
            write_trial_folder(folder, here.configuration, here.workload, here.apply_py)
            result = self._executor.run(here)
            files = packed(folder, name) if job.judge else None
        except (UserError, OSError, ValueError) as error:
            result, files = TrialResult(outcome=Outcome.INFRASTRUCTURE, reason=str(error)), None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return result, files

    def cold_start(
        self, job: Job, folders: Sequence[Folder], references: Mapping[str, Any], timeout_s: float
    ) -> TrialResult:
        """See measure_cold_start."""
        assert self._executor is not None
        folder = self._folder(job.folder)
        try:
            here = moved(job, {one.root: self._incoming.place(one, references) for one in folders})
            write_trial_folder(folder, here.configuration, here.workload, here.apply_py)
            return measure_cold_start(folder, self._executor.device, timeout_s)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def import_s(self) -> float:
        """See cold_import_s."""
        return cold_import_s(self._classes)

    def verify(self, bundle: bytes, models: Mapping[str, str], trusted_key: bytes | None) -> Verification | str:
        """Verify a bundle here: what was found, or why it could not be."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as scratch:
            folder, key = Path(scratch) / "bundle", Path(scratch) / "trusted.pub"
            folder.mkdir()
            unpack(bundle, folder)
            if trusted_key is not None:
                key.write_bytes(trusted_key)
            places = {name: Path(place) for name, place in models.items()}
            try:
                return verify(folder, models=places, trusted_key=None if trusted_key is None else key)
            except UserError as error:
                return str(error).replace(str(folder), "the bundle")

    def ping(self) -> int:
        """Its process."""
        return os.getpid()

    def close(self) -> None:
        """End what runs, and leave nothing on the disk."""
        if self._executor is not None:
            self._executor.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _folder(self, folder: str) -> Path:
        return run_folder(self._scratch, Path(folder).name, 0, 0)

    def _compiled(self, wanted: str, *, new: bool) -> Path:
        """Where the code lies that a configuration has compiled here. new: it must find nothing there."""
        kept = self._scratch / COMPILED
        folder = kept / hashlib.sha256(wanted.encode()).hexdigest()[:16]
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        for old in sorted(kept.iterdir(), key=lambda one: one.stat().st_mtime)[:-COMPILED_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return folder


def source_digest() -> str:
    """SHA-256 of paretune's source: places that run other code measure something else."""
    root = Path(str(sys.modules["paretune"].__file__)).parent
    digest = hashlib.sha256()
    for room in ("agent", "objectives", "search_space", "studies"):
        for file in sorted((root / room).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _get(reference: Any) -> bytes:
    import ray

    return bytes(ray.get(reference))


def _sweep() -> None:
    """Remove what places that were killed have left on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        owner = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
