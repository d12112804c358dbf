"""What a study found: its trials, the Pareto front, and the best configuration under given conditions."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...objectives.fingerprint import Fingerprint
from ...objectives.measuring.intervals import Comparison
from ...objectives.noise_floor import NoiseFloor
from ...objectives.verdict import Verdict
from ...search_space import LOSSES, Configuration, Loss
from ...studies import MeasurementRecord, Outcome, RatingRecord, Records, RunRecord, Study, StudyRecord, UserError
from ..trial.folder import PICTURES, trial_folder
from .confirmation import BLOCK, Latencies, compare_trials, newest_blocks
from .limits import MEASURED, Limit, constraint_values

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
    measured_at: str
    reused_from: Mapping[str, Any] | None
    """{study, trial, finished_at} of the study that measured it, when it was another one."""
    machine: str
    """Whether the machine was then as for the reference (MeasurementRecord.machine)."""

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
        self._runs = records.runs(name)
        self.ratings: list[RatingRecord] = records.ratings(name)
        """What people said of single pictures."""

    @property
    def name(self) -> str:
        """The name it was launched under."""
        return self.record.name

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The machine it was measured on."""
        return Fingerprint.from_dict(self.record.fingerprint)

    @cached_property
    def floor(self) -> NoiseFloor | None:
        """How far the reference is from itself; None until it was measured in enough processes."""
        data = self.record.noise_floor
        return None if data is None else NoiseFloor.from_dict(data)

    def runs(self, kind: str) -> list[RunRecord]:
        """The processes of one kind beside the trials, in the order they ended."""
        return [run for run in self._runs if run.kind == kind]

    @cached_property
    def blocks(self) -> Latencies:
        """{trial: {block: latency_ms}} of the newest confirmation."""
        return newest_blocks(self.runs(BLOCK))

    def before_confirming(self) -> "Results":
        """The same results as if nothing had been confirmed."""
        plain = copy.copy(self)
        plain.__dict__["blocks"] = {}
        return plain

    def confirmed(self, baseline: "Trial", candidate: "Trial") -> Comparison | None:
        """A candidate against a baseline in confirming blocks; None where these did not measure both."""
        if baseline is candidate:
            return None
        return compare_trials(self.blocks, baseline.number, candidate.number)

    def tie(self, figure: str, one: "Trial", other: "Trial") -> bool:
        """Whether two trials cannot be told apart in a figure: they differ by no more than the noise floor.

        Latencies that were confirmed in the same blocks are told apart by these, which see smaller differences.
        """
        if figure == "latency_ms" and (comparison := self.confirmed(one, other)) is not None:
            return comparison.decision == "tie"
        if self.floor is None:
            return one.figure(figure) == other.figure(figure)
        return self.floor.tie(figure, one.figure(figure), other.figure(figure))

    def better(self, figure: str, one: "Trial", other: "Trial") -> bool:
        """Whether one trial has less of a figure than another, beyond a tie."""
        if figure == "latency_ms" and (comparison := self.confirmed(other, one)) is not None:
            return comparison.decision == "faster"
        return not self.tie(figure, one, other) and one.figure(figure) < other.figure(figure)

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

    def is_dominated(self, trial: Trial) -> bool:
        """Whether its measuring was ended early for another trial, clearly better in everything, that still counts:
        more pictures may have shown since that the other one breaks the study's limits.
        """
        by = trial.measurements.get("dominated_by")
        return any(other.number == by and self.acceptable(other) for other in self.trials if other is not trial)

    def unfinished(self) -> list[Trial]:
        """The trials that were ended early for another one that does not count any more."""
        return [t for t in self.complete if "dominated_by" in t.measurements and not self.is_dominated(t)]

    def front(self) -> list[Trial]:
        """The acceptable trials that no other one beats, differences within the noise floor being ties; by the first
        objective.
        """
        candidates = [trial for trial in self.complete if self.acceptable(trial) and not self.is_dominated(trial)]
        front = pareto_front(candidates, self.study.optimised, self.better)
        return sorted(front, key=lambda t: t.figure(self.study.optimised[0]))

    def ties_of(self, trial: Trial, by: str = "latency_ms") -> list[Trial]:
        """The other acceptable trials that cannot be told apart from this one in a figure."""
        return [t for t in self.complete if t is not trial and self.acceptable(t) and self.tie(by, t, trial)]

    def best_or_none(self) -> Trial | None:
        """The fastest acceptable trial, or None when there is none."""
        try:
            return self.best()
        except UserError:
            return None

    def best(
        self,
        *,
        by: str = "latency_ms",
        limits: Sequence[Limit] = (),
        verdict: Verdict | None = None,
        loss: Loss | None = None,
    ) -> Trial:
        """The trial with the least `by` among those that keep the study's limits and the given ones.

        Of several that tie with the least within the noise floor, the one that loses least, then with the fewest
        techniques: what cannot be shown to be faster is no reason to change more.

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
        least = min(candidates, key=lambda trial: trial.figure(by))
        for trial in candidates if by == "latency_ms" else []:
            comparison = self.confirmed(least, trial)
            if comparison is not None and comparison.decision == "faster":
                least = trial
        tied = [trial for trial in candidates if trial is least or self.tie(by, trial, least)]
        # Ties are not transitive: what another one of them beats is out; what surely beats the reference comes first.
        tied = [trial for trial in tied if not any(self.better(by, other, trial) for other in tied)] or tied
        tied = [trial for trial in tied if self.better(by, trial, self.reference)] or tied
        if by == "latency_ms":  # and of these, what blocks have confirmed before what was measured once
            tied = [trial for trial in tied if trial.number in self.blocks] or tied
        front = self.front()
        tied = [trial for trial in tied if trial in front] or tied
        return min(tied, key=lambda t: (LOSSES.index(t.configuration.loss), len(t.configuration.steps), t.figure(by)))


def strictly_better(figure: str, one: Trial, other: Trial) -> bool:
    """Whether a trial's figure is less than another's, by however little."""
    return one.figure(figure) < other.figure(figure)


def pareto_front(
    trials: Sequence[Trial],
    objectives: Sequence[str],
    better: Callable[[str, Trial, Trial], bool] = strictly_better,
) -> list[Trial]:
    """The trials that no other one beats: better in one objective and in no other one worse. `better` decides what is a
    difference; by default any is.

    Ties are not transitive: should every trial be beaten by some other, those that none beats by any difference stay.
    """

    def unbeaten(better: Callable[[str, Trial, Trial], bool]) -> list[Trial]:
        def beats(one: Trial, other: Trial) -> bool:
            gains = any(better(name, one, other) for name in objectives)
            return gains and not any(better(name, other, one) for name in objectives)

        return [trial for trial in trials if not any(beats(other, trial) for other in trials if other is not trial)]

    return unbeaten(better) or unbeaten(strictly_better)


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
        measured_at=row.finished_at,
        reused_from=row.reused_from,
        machine=row.machine,
    )
