"""Replays recorded runs in place of processes: a search without a GPU, over what was measured once."""

import shutil
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

from ...objectives.fingerprint import Fingerprint
from ...search_space import Configuration
from ...studies import Outcome, RunKind, RunRecord, StudyRecord
from ..trial import PICTURES, Job, TrialResult, write_trial_folder
from .runner import ColdStart


class ReplayRunner:
    """A runner whose processes find what the recorded ones of the same kind and configuration found, in turn."""

    def __init__(self, record: StudyRecord, runs: Sequence[RunRecord]) -> None:
        """record: the study that was recorded; runs: every run of it."""
        self.fingerprint = Fingerprint.from_dict(record.fingerprint)
        self.device = self.fingerprint.device_kind
        self._record = record
        self._runs: dict[tuple[str, str], list[RunRecord]] = {}
        for run in runs:
            self._runs.setdefault((run.kind, run.configuration_key), []).append(run)
        self._asked: dict[tuple[str, str], int] = {}

    def places(self) -> int:
        """One, as it was recorded."""
        return 1

    def submit(self, kind: RunKind, job: Job) -> "Future[TrialResult]":
        """Answered at once."""
        future: Future[TrialResult] = Future()
        future.set_result(self._answer(kind, job))
        return future

    def import_s(self) -> float:
        """As recorded."""
        return self._record.import_s

    def cold_start(self, folder: Path, timeout_s: float) -> ColdStart:
        """As recorded for the configuration in a trial's folder."""
        configuration = Configuration.from_yaml((folder / "configuration.yaml").read_text())
        run = self._next(RunKind.COLD_START, configuration)
        if run is None:
            return Outcome.UNSUPPORTED, "no such cold start was recorded", {}
        return Outcome(run.outcome), run.reason, dict(run.measurements)

    def _answer(self, kind: RunKind, job: Job) -> TrialResult:
        configuration = Configuration.from_dict(job.configuration)
        run = self._next(kind, configuration)
        if run is None:
            reason = f"no {kind} of {configuration} was recorded"
            return TrialResult(outcome=Outcome.UNSUPPORTED, reason=reason)
        write_trial_folder(Path(job.folder), job.configuration, job.workload, job.apply_py)
        made = Path(job.folder) / PICTURES
        made.mkdir()
        recorded = Path(run.folder) / PICTURES if run.folder else None
        if recorded is not None and recorded.is_dir():
            shutil.copytree(recorded, made, dirs_exist_ok=True)
        pipelines: dict[str, Any] = self._record.pipelines if kind is RunKind.TRIAL else {}
        return TrialResult(
            outcome=Outcome(run.outcome),
            reason=run.reason,
            log_tail=run.log_tail,
            measurements=run.measurements,
            pipelines=pipelines,
            phases_s=run.phases_s,
        )

    def _next(self, kind: RunKind, configuration: Configuration) -> RunRecord | None:
        """The recorded runs in their order; after the last one, the first again."""
        key = (str(kind), configuration.key)
        recorded = self._runs.get(key)
        if not recorded:
            return None
        asked = self._asked.get(key, 0)
        self._asked[key] = asked + 1
        return recorded[asked % len(recorded)]

    def __enter__(self) -> "ReplayRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing runs."""
