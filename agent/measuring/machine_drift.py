"""Canaries: the reference measured again now and then, to see whether the machine has changed."""

import time
from collections.abc import Callable, Mapping

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
    floors = {place: results.floors[place] for place in runs.runner.places() if place in results.floors}
    session = 1 + max((one.run.session for one in results.linked_runs(RunKind.CANARY)), default=0)
    made = measure_canary(runs, floors, session, say)
    runs.records.add_runs([run for there in made.values() for run in there])
    for place, there in made.items():
        at = f"at {place}, " if len(made) > 1 else ""
        if not there[-1].complete:
            note(f"{at}the reference could not be measured again ({there[-1].outcome}: {there[-1].reason})")
        elif not floors[place].holds("latency_ms", there[-1].measurements["latency_ms"]):
            moved = moved_words(there, floors[place])
            note(f"{at}{moved}: the trials around this check are in doubt until blocks decide")


def measure_canary(
    runs: StudyRuns, floors: Mapping[str, NoiseFloor], session: int, say: Callable[[str], None]
) -> dict[str, list[RunRecord]]:
    """Measure the reference at each place of `floors`, at all of them at once, and again where it lies outside the
    place's floor; the last attempt decides.

    The runs, by place, are not stored.
    """
    made: dict[str, list[RunRecord]] = {place: [] for place in floors}
    outside = list(floors)
    for pause_s in PAUSES_S:
        say("the reference again")
        time.sleep(pause_s)
        begun = {
            place: runs.begin(
                RunKind.CANARY,
                Configuration(),
                runs.timing_plan(),
                session=session,
                position=sum(map(len, made.values())) + index,
                place=place,
            )
            for index, place in enumerate(outside)
        }
        for place, one in begun.items():
            made[place].append(one.run())
        outside = [
            place
            for place in outside
            if (run := made[place][-1]).complete
            and not floors[place].holds("latency_ms", run.measurements["latency_ms"])
        ]
        if not outside:
            break
    return made


def moved_words(made: list[RunRecord], floor: NoiseFloor) -> str:
    """ "the reference's latency has changed (+30.0%, +29.1%, +30.4%; its noise floor is 2.3%)"."""
    middle_ms = floor.middle("latency_ms")
    changes = ", ".join(f"{run.measurements['latency_ms'] / middle_ms - 1:+.1%}" for run in made)
    return f"the reference's latency has changed ({changes}; its noise floor is {floor.text('latency_ms')})"
