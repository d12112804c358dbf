"""Verifies a bundle at every place of a cluster."""

import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...studies import UserError
from ..bundle import Verification
from .ray_cluster import Cluster

LONGEST_S = 4 * 3600.0
"""`verify` gives up by itself long before."""
MOST_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Verified:
    """What one place found of a bundle."""

    place: str
    verification: Verification | None
    """None where it could not be run."""
    reason: str = ""
    """Why not."""

    @property
    def passed(self) -> bool:
        """Whether nothing differs there."""
        return self.verification is not None and self.verification.passed

    def line(self) -> str:
        """ "box-gpu0: passes", or what differs in a line."""
        if self.verification is None:
            return f"{self.place}: could not be verified: {self.reason}"
        wrong = [f"{check.name}: {check.text}" for check in self.verification.checks if not check.passed]
        if wrong:
            return f"{self.place}: differs: {'; '.join(wrong)}"
        latency = next((check.text for check in self.verification.checks if check.name == "latency_ms"), "")
        return f"{self.place}: passes ({latency})" if latency else f"{self.place}: passes"

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able."""
        checks = [] if self.verification is None else [asdict(check) for check in self.verification.checks]
        return {"place": self.place, "passed": self.passed, "reason": self.reason, "checks": checks}


def verify_everywhere(
    cluster: Cluster,
    folder: Path,
    *,
    models: Mapping[str, Path],
    trusted_key: Path | None = None,
    on_place: Callable[[Verified], None] = lambda one: None,
) -> list[Verified]:
    """Send a bundle to every place, once, and verify it there, at all of them at once.

    models: as for `verify`; the folders lie at the same path of each node. on_place: told of each place as soon as it
    has finished. Raises UserError when the folder cannot be read.
    """
    import ray

    key = None if trusted_key is None else _read(trusted_key)
    bundle = ray.put(_archive(folder))
    places = {name: str(place.absolute()) for name, place in models.items()}
    asked = {one.actor.verify.remote(bundle, places, key): one.name for one in cluster.places}
    found = []
    waiting = list(asked)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=LONGEST_S)
        for reference in done or waiting:
            found.append(_of(asked[reference], reference if done else None))
            on_place(found[-1])
        if not done:
            break
    return sorted(found, key=lambda one: one.place)


def _of(place: str, reference: Any) -> Verified:
    import ray

    if reference is None:
        return Verified(place, None, f"it did not finish within {LONGEST_S / 3600:.0f} hours")
    try:
        answer: Verification | str = ray.get(reference)
    except Exception as error:  # the place was lost, or Ray failed there: the others are verified all the same
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Verified(place, None, f"{type(error).__name__}: {lines[0] if lines else ''}"[:300])
    return Verified(place, None, answer) if isinstance(answer, str) else Verified(place, answer)


def _archive(folder: Path) -> bytes:
    """The folder as a tar file; links are left out, and checked for where it is unpacked."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of a bundle")
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    if sum(file.stat().st_size for file in files) > MOST_BYTES:
        raise UserError(f"{folder} is larger than {MOST_BYTES // 2**30} GiB: that is no bundle")
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for file in files:
            archive.add(file, arcname=str(file.relative_to(folder)), recursive=False)
    return written.getvalue()


def _read(key: Path) -> bytes:
    try:
        return key.read_bytes()
    except OSError as error:
        raise UserError(f"--trusted-key {key} cannot be read ({error.strerror})") from None
