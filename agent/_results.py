"""What a study found: its trials, the Pareto front, and the best configuration under given conditions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..objectives.fingerprint import Fingerprint
from ..objectives.verdict import Verdict
from ..search_space import LOSSES, Configuration, Loss
from ..studies import MeasurementRecord, Outcome, Records, Study, StudyRecord, UserError
from ._constraints import MEASURED, Limit, constraint_values
from ._trial_folder import PICTURES, trial_folder

TORCH_COMPILE = Configuration.of({"torch_compile": {"region": "whole", "mode": "default", "vae_decoder": False}})
"""torch.compile as people use it today: the whole U-Net, default mode."""


@dataclass(frozen=True)
class Trial:
    """One measured configuration."""

    number: int
    configuration: Configuration
    outcome: Outcome
    reason: str
    log_tail: str
    measurements: Mapping[str, Any]
    phases_s: Mapping[str, float]
    folder: Path
    apply_py: str
    """The file that it ran."""

    @property
    def complete(self) -> bool:
        """Whether it was measured to its end."""
        return self.outcome is Outcome.COMPLETE

    @property
    def verdict(self) -> Verdict:
        """The verdict on its pictures."""
        return (
            Verdict(self.measurements["quality"]["verdict"]) if "quality" in self.measurements else Verdict.NOT_ASSESSED
        )

    def figure(self, name: str) -> float:
        """A measured figure of a complete trial."""
        return float(self.measurements[name])

    def pictures(self) -> list[Path]:
        """Its pictures, in the order of the requests' names."""
        return sorted((self.folder / PICTURES).glob("*.png"))


class Results:
    """A study's trials as they are in the database now."""

    def __init__(self, records: Records, name: str) -> None:
        """Raises UserError when there is no such study."""
        self.record: StudyRecord = records.study(name)
        self.study = Study.model_validate(self.record.study)
        self.study.load_techniques()
        self.trials = [_trial(row, Path(self.record.files)) for row in records.measurements(name)]

    @property
    def name(self) -> str:
        """The name it was launched under."""
        return self.record.name

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The machine it was measured on."""
        return Fingerprint.from_dict(self.record.fingerprint)

    @property
    def complete(self) -> list[Trial]:
        """The trials that were measured to their end."""
        return [trial for trial in self.trials if trial.complete]

    @property
    def failures(self) -> list[Trial]:
        """The trials that were not."""
        return [trial for trial in self.trials if not trial.complete]

    @property
    def reference(self) -> Trial:
        """The unoptimised pipeline. Raises UserError when it has not been measured yet."""
        reference = self.of(Configuration())
        if reference is None or not reference.complete:
            raise UserError(f"study {self.name} has no measured reference yet: paretune launch continues it")
        return reference

    @property
    def torch_compile(self) -> Trial | None:
        """torch.compile as people use it today, when it was measured."""
        return self.of(TORCH_COMPILE)

    def of(self, configuration: Configuration) -> Trial | None:
        """The trial of a configuration."""
        return next((t for t in self.trials if t.configuration == configuration), None)

    def trial(self, number: int) -> Trial:
        """Raises UserError when there is no complete trial of that number."""
        found = next((t for t in self.trials if t.number == number), None)
        if found is None:
            raise UserError(f"study {self.name} has no trial {number}; paretune best {self.name} --all lists them")
        if not found.complete:
            raise UserError(f"trial {number} of {self.name} ended as {found.outcome}: {found.reason}")
        return found

    def acceptable(self, trial: Trial) -> bool:
        """Whether a trial keeps the study's limits."""
        return trial.complete and all(v <= 0 for v in constraint_values(self.study, trial.measurements).values())

    def front(self) -> list[Trial]:
        """The acceptable trials that no other one beats in every objective, by the first objective."""
        candidates = [trial for trial in self.complete if self.acceptable(trial)]
        return sorted(pareto_front(candidates, self.study.optimised), key=lambda t: t.figure(self.study.optimised[0]))

    def best(
        self,
        *,
        by: str = "latency_ms",
        limits: Sequence[Limit] = (),
        verdict: Verdict | None = None,
        loss: Loss | None = None,
    ) -> Trial:
        """The trial with the least `by` among those that keep the study's limits and the given ones.

        verdict: the worst that is accepted. loss: the most that its techniques may lose by the way they work.
        Raises UserError when nothing qualifies, and says what stood in the way.
        """
        if by not in MEASURED:
            raise UserError(f"--by {by}: one of {', '.join(MEASURED)}")
        if not self.study.workload.quality_assessed and (verdict is not None or by == "drift"):
            raise UserError(
                f"the quality of {self.name} was not assessed (random weights), so no verdict can be asked for; "
                "--loss reordered keeps to techniques that do not approximate"
            )
        candidates = [trial for trial in self.complete if self.acceptable(trial)]
        steps = [(f"keep the limits of {self.name}", candidates)]
        for limit in limits:
            candidates = [trial for trial in candidates if limit.met_by(trial.measurements)]
            steps.append((f"keep {limit}", candidates))
        if verdict is not None:
            candidates = [trial for trial in candidates if trial.verdict.at_least(verdict)]
            steps.append((f"are {verdict} or better", candidates))
        if loss is not None:
            allowed = LOSSES[: LOSSES.index(loss) + 1]
            candidates = [trial for trial in candidates if trial.configuration.loss in allowed]
            steps.append((f"lose no more than {loss}", candidates))
        if not candidates:
            failed = next(what for what, left in steps if not left)
            raise UserError(f"no configuration qualifies: none of {len(self.complete)} measured trials {failed}")
        return min(candidates, key=lambda trial: trial.figure(by))


def pareto_front(trials: Sequence[Trial], objectives: Sequence[str]) -> list[Trial]:
    """The trials that no other one beats: at least as good in every objective and better in one."""
    points = [tuple(trial.figure(name) for name in objectives) for trial in trials]

    def beaten(point: tuple[float, ...]) -> bool:
        return any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)

    return [trial for trial, point in zip(trials, points, strict=True) if not beaten(point)]


def _trial(row: MeasurementRecord, files: Path) -> Trial:
    try:
        configuration = Configuration.from_dict(row.configuration)
    except ValueError as error:
        raise UserError(
            f"trial {row.trial} of {row.study} cannot be read, another version of paretune measured it ({error}): "
            "use that version, or launch the study again under another --name"
        ) from None
    return Trial(
        number=row.trial,
        configuration=configuration,
        outcome=Outcome(row.outcome),
        reason=row.reason,
        log_tail=row.log_tail,
        measurements=row.measurements,
        phases_s=row.phases_s,
        folder=trial_folder(files, row.trial),
        apply_py=row.apply_py,
    )
