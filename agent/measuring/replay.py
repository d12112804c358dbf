"""Replays recorded runs in place of processes: a search without a GPU, over what was measured once."""

import shutil
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle
from pathlib import Path

from ...objectives.fingerprint import Fingerprint
from ...search_space import Configuration
from ...studies import Outcome, RunKind, RunRecord, StudyRecord
from ..trial import HERE, PICTURES, Job, TrialResult, write_trial_folder


class ReplayRunner:
    """A runner whose processes find what the recorded ones of the same kind and configuration found, in turn."""

    def __init__(self, record: StudyRecord, runs: Sequence[RunRecord]) -> None:
        """record: the study that was recorded; runs: every run of it."""
        self.fingerprint = Fingerprint.from_dict(record.fingerprint)
        self.device = self.fingerprint.device_kind
        self._record = record
        found: dict[tuple[str, str], list[RunRecord]] = {}
        for run in runs:
            found.setdefault((run.kind, run.configuration_key), []).append(run)
        # In their order; after the last one, the first again.
        self._recorded = {key: cycle(recorded) for key, recorded in found.items()}

    def places(self) -> Sequence[str]:
        """One, as it was recorded."""
        return [HERE]

    def submit(self, kind: RunKind, job: Job, place: str | None = None) -> "Future[TrialResult]":
        """Answered at once."""
        folder = Path(job.folder)
        write_trial_folder(folder, job.configuration, job.workload, job.apply_py)
        (folder / PICTURES).mkdir()
        future: Future[TrialResult] = Future()
        future.set_result(self._answer(kind, Configuration.from_dict(job.configuration), folder / PICTURES))
        return future

    def import_s(self) -> float:
        """As recorded."""
        return self._record.import_s

    def cold_start(self, folder: Path, timeout_s: float) -> TrialResult:
        """As recorded for the configuration in a trial's folder."""
        configuration = Configuration.from_yaml((folder / "configuration.yaml").read_text())
        return self._answer(RunKind.COLD_START, configuration, folder / PICTURES)

    def with_compiled_code(
        self, folder: Path, packages: Sequence[str], timeout_s: float
    ) -> AbstractContextManager[Path | None]:
        """None: it was not recorded."""
        return nullcontext(None)

    def close(self) -> None:
        """Nothing runs."""

    def _answer(self, kind: RunKind, configuration: Configuration, pictures: Path) -> TrialResult:
        recorded = self._recorded.get((kind, configuration.key))
        if recorded is None:
            return TrialResult(outcome=Outcome.UNSUPPORTED, reason=f"no {kind} of {configuration} was recorded")
        run = next(recorded)
        if run.folder and (made := Path(run.folder) / PICTURES).is_dir():
            shutil.copytree(made, pictures, dirs_exist_ok=True)
        return TrialResult(
            outcome=Outcome(run.outcome),
            reason=run.reason,
            log_tail=run.log_tail,
            measurements=run.measurements,
            pipelines=self._record.pipelines if kind is RunKind.TRIAL else {},
            phases_s=run.phases_s,
        )
