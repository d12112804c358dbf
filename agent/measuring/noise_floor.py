"""Measures the noise floor of a study: the unchanged reference in several fresh processes."""

import shutil
from collections.abc import Callable

from ...objectives.measuring import VARIANT
from ...objectives.noise_floor import NoiseFloor
from ...search_space import Configuration
from ...studies import RunKind, RunRecord, UserError
from ..trial import ADVICE, PICTURES, repetition, repetition_words, run_folder, too_far
from .study_runs import StudyRuns


def ensure_floor(runs: StudyRuns, say: Callable[[str], None]) -> NoiseFloor:
    """Measure the reference in as many processes as the study asks for. Its own trial and processes
    of earlier launches count.

    The pictures of the first further process are compared with the reference's: what makes others in every process
    does not repeat either.

    say: told what is measured next. Raises UserError when a process fails, or makes other pictures.
    """
    _check_repeats(runs)
    wanted = runs.study.measurement.floor_processes
    while (floor := runs.results.floor) is None:
        position = len(runs.results.floor_runs())
        say(f"noise floor, process {position + 2} of {wanted}")
        judged = position == 0 and runs.study.workload.quality_assessed
        run = _judged_process(runs) if judged else _process(runs, position)
        if not runs.records.add_run(run).complete:
            raise UserError(f"the reference could not be measured again ({run.outcome}): {run.reason}")
        _check_repeats(runs)
    runs.know_floor(floor.of_figure("latency_ms"))
    return floor


def _process(runs: StudyRuns, position: int) -> RunRecord:
    return runs.process(RunKind.FLOOR, Configuration(), runs.timing_plan(), position=position)


def _judged_process(runs: StudyRuns) -> RunRecord:
    """The first one: the pictures of its timed calls are judged, by what needs no weights."""
    timed = tuple(name for name in runs.plan().pictures if VARIANT not in name)
    run = runs.process(
        RunKind.FLOOR,
        Configuration(),
        runs.plan(stages=False, pictures=timed),
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
