"""What a study found: its trials, worked out from its runs, the Pareto front, and the best configuration."""

import copy
import statistics
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ...objectives.fingerprint import Fingerprint
from ...objectives.measuring.intervals import Comparison
from ...objectives.noise_floor import NoiseFloor
from ...objectives.verdict import Verdict
from ...search_space import LOSSES, Configuration, Loss
from ...studies import LinkedRun, RatingRecord, Records, RunKind, RunRecord, StudyRecord, UserError, stored_study
from ..trial import repetition
from .baselines import TORCH_COMPILE, is_torch_compile_alone
from .confirmation import Latencies, compare_trials, newest_blocks
from .front import best_of, pareto_front
from .limits import ASKABLE, Limit
from .machine import Canary, Disturbance, canaries, disturbance, floor_of_all, floors_of
from .trial import Trial


class Results:
    """A study's trials. Read once; `refresh` takes up what was measured since."""

    def __init__(self, records: Records, name: str) -> None:
        """Raises UserError when there is no such study."""
        self.records = records
        self.record: StudyRecord = records.study(name)
        self.study = stored_study(self.record)
        self.study.load_techniques()
        self._runs: list[LinkedRun] = records.runs(name)

    @property
    def name(self) -> str:
        """The name it was launched under."""
        return self.record.name

    @property
    def quality_assessed(self) -> bool:
        """Whether pictures mean anything: not with random weights."""
        return self.study.workload.quality_assessed

    @property
    def newest_link(self) -> int:
        """Of the run that was taken up last; 0 before there is one."""
        return self._runs[-1].link if self._runs else 0

    @property
    def is_whole(self) -> bool:
        """Whether the database still has all runs that were taken up: nothing of ours deletes any."""
        return {(one.link, one.run.id) for one in self._runs} <= self.records.links(self.name)

    def refresh(self) -> "Results":
        """Take up the runs that were added since, or since the last time; returns itself."""
        added = self.records.runs(self.name, after=self.newest_link)
        if added:
            self._runs += added
            self.record = self.records.study(self.name)  # judged again, it has other settings
            self.study = stored_study(self.record)
            self._forget_what_was_derived()
        return self

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The machine it was measured on."""
        return Fingerprint.from_dict(self.record.fingerprint)

    @cached_property
    def ratings(self) -> list[RatingRecord]:
        """What people said of single pictures."""
        return self.records.ratings(self.name)

    def before_confirming(self) -> "Results":
        """The same results as if nothing had been confirmed."""
        plain = copy.copy(self)
        plain._forget_what_was_derived()
        plain.__dict__["blocks"] = {}
        return plain

    def _forget_what_was_derived(self) -> None:
        for name, kept in vars(type(self)).items():
            if isinstance(kept, cached_property):
                self.__dict__.pop(name, None)

    def linked_runs(self, kind: RunKind) -> list[LinkedRun]:
        """The runs of one kind that the study uses, in order, with the trials they belong to."""
        return [one for one in self._runs if one.run.kind == kind]

    def runs(self, kind: RunKind) -> list[RunRecord]:
        """The same, without the trials."""
        return [one.run for one in self.linked_runs(kind)]

    # Its trials.

    @cached_property
    def numbered(self) -> dict[int, Trial]:
        """Every trial by its number, in that order."""
        by_trial: dict[int, list[LinkedRun]] = {}
        for one in self._runs:
            by_trial.setdefault(one.trial, []).append(one)
        measured = {
            number: runs for number, runs in by_trial.items() if any(one.run.kind == RunKind.TRIAL for one in runs)
        }
        return {number: Trial(self, number, measured[number]) for number in sorted(measured)}

    @property
    def trials(self) -> list[Trial]:
        """The same, without the numbers."""
        return list(self.numbered.values())

    @cached_property
    def complete(self) -> list[Trial]:
        """The trials that were measured to their end."""
        return [trial for trial in self.trials if trial.complete]

    @property
    def failures(self) -> list[Trial]:
        """The trials that were not."""
        return [trial for trial in self.trials if not trial.complete]

    @cached_property
    def acceptable(self) -> list[Trial]:
        """The complete trials that keep the study's limits."""
        return [trial for trial in self.trials if trial.acceptable]

    @cached_property
    def reference(self) -> Trial:
        """The unoptimised pipeline. Raises UserError when it has not been measured yet."""
        reference = self.of(Configuration())
        if reference is None or not reference.complete:
            raise UserError(f"study {self.name} has no measured reference yet: paretune launch continues it")
        return reference

    @cached_property
    def torch_compile(self) -> Trial | None:
        """torch.compile as people write it, when it was measured."""
        return self.of(TORCH_COMPILE)

    @cached_property
    def torch_compile_best(self) -> Trial | None:
        """The fastest that torch.compile alone reaches, of what was measured: by the trials, which decide what has a
        part in the blocks.
        """
        alone = [trial for trial in self.complete if is_torch_compile_alone(trial.configuration)]
        return min(alone, key=self.alone_ms, default=None)

    def of(self, configuration: Configuration) -> Trial | None:
        """The trial of a configuration."""
        return self._by_configuration.get(configuration)

    @cached_property
    def _by_configuration(self) -> dict[Configuration, Trial]:
        return {trial.configuration: trial for trial in self.trials}

    def trial(self, number: int) -> Trial:
        """Raises UserError when there is no complete trial of that number."""
        found = self.numbered.get(number)
        if found is None:
            raise UserError(f"study {self.name} has no trial {number}; paretune best {self.name} --all lists them")
        if not found.complete:
            raise UserError(f"trial {number} of {self.name} ended as {found.outcome}: {found.reason}")
        return found

    # The machine.

    def floor_runs(self) -> list[RunRecord]:
        """The unchanged reference in other processes than its own trial's."""
        return [run for run in self.runs(RunKind.FLOOR) if run.complete]

    @cached_property
    def floors(self) -> dict[str, NoiseFloor]:
        """{place: how far the reference is from itself there}, of the places with enough processes of it."""
        return floors_of([self.reference.timing, *self.floor_runs()], self.study.measurement.floor_processes)

    @cached_property
    def floor(self) -> NoiseFloor | None:
        """The same for all places: how far the reference is from itself at the worst of them; None until it was
        measured in enough processes at the place of the reference.
        """
        return floor_of_all(self.floors, self.reference.timing.worker)

    @cached_property
    def disturbance(self) -> Disturbance | None:
        """What it costs that several places work at once; None where one does."""
        return disturbance([self.reference.timing, *self.floor_runs()])

    @property
    def unsteady(self) -> bool:
        """Whether single measurements cannot be compared on this machine."""
        return self.floor is not None and self.floor.unsteady

    @cached_property
    def canaries(self) -> list[Canary]:
        """Every time the reference was measured again during the search."""
        return canaries(self.floors, self._runs)

    @property
    def reference_contradicted(self) -> bool:
        """Whether the reference was never again found where it had been: then nothing can be compared with it."""
        return bool(self.canaries) and not any(canary.inside for canary in self.canaries)

    @cached_property
    def reordering_floor(self) -> dict[str, Any] | None:
        """How far pictures drift when only the order of arithmetic changes: {"variants": {words: ...}, "drift": the
        largest}; None when it was not measured as pictures are judged now. Where the unchanged reference does not
        repeat exactly, that is a variant as well.
        """
        runs = [run for run in self.runs(RunKind.REORDERING) if run.workload_key == self.record.workload_key]
        variants = {run.measurements["variant"]: _variant(run) for run in runs} | self.repetitions
        if not variants:
            return None
        drifts = [variant["drift"] for variant in variants.values() if variant.get("drift") is not None]
        return {"variants": variants, "drift": max(drifts, default=None)}

    @cached_property
    def repetitions(self) -> dict[str, dict[str, Any]]:
        """{words: ...} of the ways in which the unchanged reference, asked for the same again, gave other pictures."""
        judged = [run.measurements["quality"] for run in self.floor_runs() if "quality" in run.measurements]
        found = {
            "the same request again": self.reference.quality.get("repeat"),
            "another process": next(map(repetition, judged), None),
        }
        return {words: one for words, one in found.items() if one is not None}

    # One scale for latencies, one set of pictures.

    @cached_property
    def blocks(self) -> Latencies:
        """{trial: {block: latency_ms}} of the newest confirmation, at the place where it was made first."""
        return next(iter(self.blocks_by_place.values()), {})

    @cached_property
    def blocks_by_place(self) -> dict[str, Latencies]:
        """The same by place: of several, a second one may have repeated it."""
        return newest_blocks(self.linked_runs(RunKind.BLOCK))

    def compared(self, baseline: Trial, candidate: Trial) -> Comparison | None:
        """A candidate against a baseline in confirming blocks; None where these did not measure both."""
        return compare_trials(self.blocks, baseline.number, candidate.number)

    def latency_ms(self, trial: Trial) -> float:
        """A complete trial's latency, on the scale of the newest measurement of the reference.

        In blocks: the reference's mean there, times the confirmed ratio. Trials that were not in the blocks were
        measured earlier, so they are scaled by how much those in the blocks have changed since, in the median: the
        reference alone may change with the processor, which a recorded configuration does not wait for. Without blocks
        the reference is the median of its processes, and every other trial what it was measured to be, in terms of the
        reference of its place.
        """
        if trial.number not in self._latencies_ms:
            self._latencies_ms[trial.number] = self._latency_ms(trial)
        return self._latencies_ms[trial.number]

    @cached_property
    def _latencies_ms(self) -> dict[int, float]:
        """{trial: ms} as far as they were asked for: every comparison of two trials asks."""
        return {}

    def _latency_ms(self, trial: Trial) -> float:
        in_blocks = self.blocks.get(self.reference.number)
        if in_blocks is None:
            return self._before_blocks_ms(trial)
        confirmed_ms = statistics.geometric_mean(in_blocks.values())  # as a comparison's ratio is one of such means
        if trial is self.reference:
            return confirmed_ms
        found = self.compared(self.reference, trial)
        return self._before_blocks_ms(trial) * self._change_since if found is None else confirmed_ms * found.ratio

    def _before_blocks_ms(self, trial: Trial) -> float:
        if trial is self.reference and self.floor is not None:
            return self.floor.middle("latency_ms")
        return self.alone_ms(trial)

    @cached_property
    def _change_since(self) -> float:
        """What the trials in the blocks took there, divided by what they took before: the median."""
        return statistics.median(
            statistics.geometric_mean(blocks.values()) / self._before_blocks_ms(self.numbered[number])
            for number, blocks in self.blocks.items()
            if number in self.numbered
        )

    def alone_ms(self, trial: Trial) -> float:
        """The latency that a complete trial's own process measured, on the scale of the place of the reference."""
        measured_ms = float(trial.measurements["latency_ms"])
        there = self.floors.get(trial.timing.worker)
        if there is None or self.floor is None:
            return measured_ms
        return measured_ms * (self.floor.middle("latency_ms") / there.middle("latency_ms"))

    @cached_property
    def shared_pictures(self) -> frozenset[str]:
        """The pictures that every trial has which was not ended early, by file: what trials are compared by."""
        judged = [
            {str(picture["file"]) for picture in trial.quality.get("pictures", ())}
            for trial in self.complete
            if trial.ended_early_by is None
        ]
        return frozenset(set.intersection(*judged)) if judged else frozenset()

    # The front and the best.

    @cached_property
    def front(self) -> list[Trial]:
        """The acceptable trials that no other one dominates, by the first objective."""
        front = pareto_front(self.acceptable, self.study.optimised)
        return sorted(front, key=lambda trial: trial.figure(self.study.optimised[0]))

    @cached_property
    def tied_with_best(self) -> frozenset[int]:
        """The numbers of the trials that tie with the best one in latency."""
        best = self.best_or_none
        return frozenset() if best is None else frozenset(trial.number for trial in best.ties())

    @cached_property
    def best_or_none(self) -> Trial | None:
        """The fastest acceptable trial, or None when there is none."""
        return self.best() if self.acceptable else None

    def best(
        self,
        *,
        by: str = "latency_ms",
        limits: Sequence[Limit] = (),
        verdict: Verdict | None = None,
        loss: Loss | None = None,
    ) -> Trial:
        """The trial with the least `by` on the front of those that keep the study's limits and the given ones.

        Ties are decided by `front.TIE_RULE`. verdict: the worst that is accepted. loss: the most that its techniques
        may lose by the way they work. Raises UserError when nothing qualifies, and says what stood in the way.
        """
        if by not in ASKABLE:
            raise UserError(f"--by {by}: one of {', '.join(ASKABLE)}")
        if not self.quality_assessed and (verdict is not None or by == "drift"):
            raise UserError(
                f"the quality of {self.name} was not assessed (random weights), so no verdict can be asked for; "
                "--loss reordered keeps to techniques that do not approximate"
            )
        candidates = self.acceptable
        steps = [(f"keep the limits of {self.name}", candidates)]
        for limit in limits:
            candidates = [trial for trial in candidates if limit.met_by(trial.known_figure(limit.figure))]
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
        # The front knows nothing of a figure that is no objective.
        optimised = self.study.optimised
        on_front = by in optimised or by == "latency_ms"  # the fastest is what every page calls the best
        return best_of(pareto_front(candidates, optimised) if on_front else candidates, by)


def _variant(run: RunRecord) -> dict[str, Any]:
    if not run.complete:
        return {"outcome": run.outcome, "reason": run.reason}
    quality = run.measurements["quality"]
    if quality["drift"] is None:
        return {"outcome": Verdict.NOT_ASSESSED.value, "reason": "the reference's pictures show nothing"}
    return {key: quality[key] for key in ("n", "verdict", "drift", "worst_metrics")}
