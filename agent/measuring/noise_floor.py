"""Measures the noise floor of a study: the unchanged reference in several fresh processes."""

import shutil
from collections.abc import Callable

from ...objectives.measuring import VARIANT
from ...objectives.noise_floor import NoiseFloor
from ...search_space import Configuration
from ...studies import Outcome, RunKind, RunRecord, UserError
from ..trial import ADVICE, PICTURES, repetition, repetition_words, run_folder, too_far
from .study_runs import StudyRuns


def ensure_floor(runs: StudyRuns, say: Callable[[str], None]) -> NoiseFloor:
    """Measure the reference at each place in as many processes as the study asks for. Its own trial and processes
    of earlier launches count.

    The pictures of the first further process are compared with the reference's: what makes others in every process
    does not repeat either. Several places measure at once, as they do in the search; only that first process has the
    machine to itself, as the reference's own trial had, so that it shows how far the places disturb each other.

    say: told what is measured next. Raises UserError when a process fails, or makes other pictures.
    """
    _check_repeats(runs)
    wanted = max(runs.study.measurement.floor_processes, 2)
    places = runs.runner.places()
    if not runs.results.floor_runs() and (len(places) > 1 or places[0] not in runs.results.floors):
        say(f"noise floor, process 2 of {wanted}" if len(places) < 2 else "the reference with the other places idle")
        _store(runs, [_judged_process(runs, places[0])])
    while missing := _without_floor(runs, wanted):
        position, count = len(runs.results.floor_runs()), len(runs.runner.places())
        say(
            f"noise floor, process {position + 2} of {wanted}"
            if count < 2
            else f"noise floor at {count} places at once, {len(missing)} of which lack processes"
        )
        begun = [
            runs.begin(
                RunKind.FLOOR, Configuration(), runs.timing_plan(), position=position + i, place=place, beside=count
            )
            for i, place in enumerate(missing)
        ]
        _store(runs, [one.run() for one in begun])
    floor = runs.results.floor
    if floor is None:
        raise UserError("no place is left at which the noise floor could be measured")
    runs.know_floor(floor.of_figure("latency_ms"))
    return floor


def _without_floor(runs: StudyRuns, wanted: int) -> list[str]:
    """The places that need one more process of the reference."""
    places, results = runs.runner.places(), runs.results
    if len(places) < 2:
        return [place for place in places if place not in results.floors]
    together = [run.worker for run in results.floor_runs() if "beside" in run.measurements]
    return [place for place in places if together.count(place) < wanted]


def _store(runs: StudyRuns, made: list[RunRecord]) -> None:
    runs.records.add_runs(made)
    for run in made:
        # A place that is lost takes nothing from the others.
        if not run.complete and (run.outcome != Outcome.INFRASTRUCTURE or run.worker in runs.runner.places()):
            raise UserError(f"the reference could not be measured again ({run.outcome}): {run.reason}")
    _check_repeats(runs)


def _judged_process(runs: StudyRuns, place: str) -> RunRecord:
    """The first one: where pictures mean something, those of its timed calls are judged, by what needs no weights."""
    if not runs.study.workload.quality_assessed:
        return runs.process(RunKind.FLOOR, Configuration(), runs.timing_plan(), place=place)
    timed = tuple(name for name in runs.plan().pictures if VARIANT not in name)
    run = runs.process(
        RunKind.FLOOR,
        Configuration(),
        runs.plan(stages=False, pictures=timed),
        place=place,
        judge=True,
        reference_pictures=str(runs.results.reference.pictures_folder / PICTURES),
        weights={},
        metric_files=[],
    )
    shutil.rmtree(run_folder(runs.folder, RunKind.FLOOR, 0, 0), ignore_errors=True)
    return run


def _check_repeats(runs: StudyRuns) -> None:
    for run in runs.results.floor_runs():
        found = repetition(run.measurements["quality"]) if "quality" in run.measurements else None
        if found is not None and too_far(found):
            raise UserError(
                f"the pictures do not repeat: made by another process of the unchanged pipelines, they are "
                f"{repetition_words(found)}; {ADVICE}, and launch the study under another --name"
            )
