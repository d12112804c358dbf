"""Measures the noise floor of a study: the unchanged reference in several fresh processes."""

from collections.abc import Callable

from ...objectives.noise_floor import NoiseFloor
from ...search_space import Configuration
from ...studies import RunKind, UserError
from .study_runs import StudyRuns


def ensure_floor(runs: StudyRuns, say: Callable[[str], None]) -> NoiseFloor:
    """Measure the reference in as many processes as the study asks for. Its own trial and processes
    of earlier launches count.

    say: told what is measured next. Raises UserError when a process fails.
    """
    wanted = runs.study.measurement.floor_processes
    while (floor := runs.results.floor) is None:
        position = len(runs.results.floor_runs())
        say(f"noise floor, process {position + 2} of {wanted}")
        run = runs.process(RunKind.FLOOR, Configuration(), runs.timing_plan(), position=position)
        if not runs.records.add_run(run).complete:
            raise UserError(f"the reference could not be measured again ({run.outcome}): {run.reason}")
    runs.know_floor(floor.of_figure("latency_ms"))
    return floor
