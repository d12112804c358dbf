"""Canaries: the reference measured again now and then, to see whether the machine has changed."""

import time
from collections.abc import Callable

from ...objectives.noise_floor import NoiseFloor
from ...search_space import Configuration
from ...studies import RunKind, RunRecord
from ..results import Results
from .study_runs import StudyRuns

PAUSES_S = (0.0, 5.0, 20.0)
"""Before each attempt. By definition one canary in twenty lies outside the floor; three in a row mean something,
and a disturbance of a few seconds is over by then."""


def unchecked_trials(results: Results) -> int:
    """How many trials the study has taken up since the last canary."""
    last = max((one.link for one in results.linked_runs(RunKind.CANARY)), default=0)
    return sum(trial.link > last for trial in results.trials if not trial.is_reference)


def check_machine(runs: StudyRuns, say: Callable[[str], None], note: Callable[[str], None]) -> None:
    """Measure the reference again. If the machine has changed, the trials around this check are in doubt.

    say: told what is measured next. note: told what was found, unless all is well.
    """
    results = runs.results
    floor = results.floor
    assert floor is not None
    session = 1 + max((one.run.session for one in results.linked_runs(RunKind.CANARY)), default=0)
    made = measure_canary(runs, floor, session, say)
    runs.records.add_runs(made)
    if not made[-1].complete:
        note(f"the reference could not be measured again ({made[-1].outcome}: {made[-1].reason})")
    elif not runs.results.canaries[-1].inside:
        note(f"{moved_words(made, floor)}: the trials around this check are in doubt until blocks decide")


def measure_canary(runs: StudyRuns, floor: NoiseFloor, session: int, say: Callable[[str], None]) -> list[RunRecord]:
    """Measure the reference, several times while it lies outside the floor; the last attempt decides.

    The runs are not stored.
    """
    made: list[RunRecord] = []
    for position, pause_s in enumerate(PAUSES_S):
        say("the reference again")
        time.sleep(pause_s)
        plan = runs.timing_plan()
        made.append(runs.process(RunKind.CANARY, Configuration(), plan, session=session, position=position))
        if not made[-1].complete or floor.holds("latency_ms", made[-1].measurements["latency_ms"]):
            break
    return made


def moved_words(made: list[RunRecord], floor: NoiseFloor) -> str:
    """ "the reference's latency has changed (+30.0%, +29.1%, +30.4%; its noise floor is 2.3%)"."""
    middle_ms = floor.middle("latency_ms")
    changes = ", ".join(f"{run.measurements['latency_ms'] / middle_ms - 1:+.1%}" for run in made)
    return f"the reference's latency has changed ({changes}; its noise floor is {floor.text('latency_ms')})"
