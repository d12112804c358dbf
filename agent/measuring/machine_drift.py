"""Watches over a launch that the machine stays what it was when the reference was measured."""

from collections.abc import Callable

from ...search_space import Configuration
from ...studies import MeasurementRecord, Outcome, UserError
from ...studies._records import MOVED, STEADY
from ..search.sampler import Teller
from .noise_floor import canary, ensure_floor
from .remeasure import measure_again, superseded
from .runner import Runner

CLOSING_CHECKS = 2
"""At the end of a search: one for the last trials, one more for those that the first had measured again."""


class MachineWatch:
    """The noise floor, the canaries, and what follows from them."""

    def __init__(self, runner: Runner, step: Callable[[str], None], note: Callable[[str], None]) -> None:
        """Measures the noise floor when it is not known. step: told what is measured next; note: what was found."""
        self._runner = runner
        self._step = step
        self._note = note
        self._since_check = 0
        self._know_floor()

    def count(self) -> None:
        """One more trial was measured."""
        self._since_check += 1

    def due(self) -> bool:
        """Whether so many were measured that the machine has to be looked at."""
        every = self._runner.study.measurement.canary_every
        return 0 < every <= self._since_check

    def in_doubt(self) -> bool:
        """Whether the machine may have been another one when some trial was measured, and that is to be looked at."""
        looked_at = self._runner.study.measurement.canary_every > 0
        return looked_at and any(row.machine != STEADY for row in self._rows())

    def close(self, teller: Teller) -> None:
        """Look at the machine once more for the last trials."""
        for _ in range(CLOSING_CHECKS):
            if self.in_doubt():
                self.check(teller)

    def check(self, teller: Teller) -> None:
        """Measure the reference again. Where it was: what came since the last check counts, and what an earlier check
        threw doubt upon is measured again. Elsewhere: what came since is in doubt until a later check finds it back;
        measuring it again now would only give other wrong figures.
        """
        self._since_check = 0
        measured = len(self._rows())
        self._step("the reference again")
        result = canary(self._runner, self._floor, measured)
        if result.good is None:
            self._note(result.words)
            return
        reference = self._runner.reference()
        if not result.good and reference.machine != STEADY and reference.reused_from is not None:
            self._note(f"{result.words}: it is measured anew, and nothing else is taken over")
            self._measure_the_reference_anew(reference)
            return
        self._runner.records.settle_machine(self._runner.study.name, STEADY if result.good else MOVED)
        if not result.good:
            self._note(
                f"{result.words}: the trials since the last check are in doubt until it is back; if this is how the "
                "machine is from now on, launch the study under another --name"
            )
            return
        for row in self._rows():
            if row.machine != MOVED or row.outcome != Outcome.COMPLETE:
                continue
            self._step(f"again: {Configuration.from_dict(row.configuration)}")
            again = measure_again(self._runner, row, session=measured)
            if again is None:
                self._note(f"trial {row.trial} failed when it was measured again: its figures stay in doubt")
            else:
                teller.tell_again(row, again)

    def _measure_the_reference_anew(self, former: MeasurementRecord) -> None:
        result = self._runner.trial(0, Configuration())
        if result.outcome is not Outcome.COMPLETE:
            raise UserError(f"the unchanged pipelines could not be measured: {result.reason}")
        anew = self._runner.measurement(0, Configuration(), result)
        self._runner.records.update_study(self._runner.study.name, noise_floor=None)
        self._runner.records.replace_measurement(anew, superseded(former, 0))
        self._know_floor()

    def _know_floor(self) -> None:
        self._floor = ensure_floor(self._runner, self._step, self._note)
        self._runner.know_floor(self._floor.of_figure("latency_ms"))

    def _rows(self) -> list[MeasurementRecord]:
        return self._runner.records.measurements(self._runner.study.name)
