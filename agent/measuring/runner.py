"""Where processes run: on this machine, at the places of Ray (ray_runner.py), or nowhere: recorded runs are replayed
(replay.py).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from ...objectives.fingerprint import Fingerprint
from ...studies import Outcome, RunKind, UserError, check_calls
from ..bundle import with_compiled_code
from ..trial import HERE, Executor, Job, TrialResult, cold_import_s, measure_cold_start, write_trial_folder

INFRASTRUCTURE_TRIES = 3
"""A failure of the host says nothing about the configuration, so the process is run again."""
FILES_GONE = "what was measured before is in the database; leave the files alone, and launch again"


class Runner(Protocol):
    """Runs jobs, each in a process of its own, as many at a time as it has places."""

    device: str
    fingerprint: Fingerprint

    def places(self) -> Sequence[str]:
        """The names of its places, each of which runs one job at a time; the first one is where finals run."""
        ...

    def submit(self, kind: RunKind, job: Job, place: str | None = None) -> "Future[TrialResult]":
        """Start a job at a place, by default at any, or queue it. A failed job is a result too; it says where it ran.

        Raises UserError, at once or from the future, when no job can be run until a user fixes something.
        """
        ...

    def import_s(self) -> float:
        """Seconds that a fresh process needs until torch, diffusers and the pipeline classes are imported."""
        ...

    def cold_start(self, folder: Path, timeout_s: float) -> TrialResult:
        """Start a trial's folder once in a fresh process with empty compiler caches."""
        ...

    def with_compiled_code(
        self, folder: Path, packages: Sequence[str], timeout_s: float
    ) -> AbstractContextManager[Path | None]:
        """A copy of a trial's folder that loads compiled code; None where that cannot be built."""
        ...

    def close(self) -> None:
        """End whatever runs."""
        ...


class LocalRunner:
    """Processes on this machine, one at a time: two would disturb each other's timing."""

    def __init__(
        self,
        device: str,
        workload: Mapping[str, Any],
        deadlines_s: Mapping[str, float],
        host_memory_gib: float | None = None,
    ) -> None:
        """Start the fork server (see Executor). workload: its description.

        Raises UserError when it cannot start, and when a pipeline does not take what a request passes to it.
        """
        self.device = device
        self._classes = sorted({spec["class"] for spec in workload.get("pipelines", {}).values()})
        self._executor = Executor(device, self._classes, deadlines_s, host_memory_gib)
        try:
            check_calls(workload, self._executor.interfaces)
        except UserError:
            self.close()
            raise
        self.fingerprint = self._executor.fingerprint

    def places(self) -> Sequence[str]:
        """One."""
        return [HERE]

    def submit(self, kind: RunKind, job: Job, place: str | None = None) -> "Future[TrialResult]":
        """Run it and wait: with one place, nothing else could run meanwhile."""
        for _ in range(INFRASTRUCTURE_TRIES):
            write_trial_folder(Path(job.folder), job.configuration, job.workload, job.apply_py)
            result = self._executor.run(job)
            if not Path(job.folder).is_dir():
                # Whatever became of the process, it says nothing about the configuration.
                raise UserError(f"{job.folder} was deleted while a process was running in it: {FILES_GONE}")
            if result.outcome is not Outcome.INFRASTRUCTURE:
                break
        future: Future[TrialResult] = Future()
        future.set_result(result)
        return future

    def import_s(self) -> float:
        """Timed in a process that is started for it."""
        return cold_import_s(self._classes)

    def cold_start(self, folder: Path, timeout_s: float) -> TrialResult:
        """See measure_cold_start."""
        return measure_cold_start(folder, self.device, timeout_s)

    def with_compiled_code(
        self, folder: Path, packages: Sequence[str], timeout_s: float
    ) -> AbstractContextManager[Path | None]:
        """See bundle.with_compiled_code."""
        return with_compiled_code(folder, self.device, packages, timeout_s)

    def close(self) -> None:
        """End the fork server."""
        self._executor.close()
