"""The reordering floor: how far pictures drift when only the order of arithmetic changes, measured per workload."""

import shutil
from collections.abc import Callable

from ...search_space import Configuration, reordering_sources
from ...studies import RunKind, picture_names
from ..trial import run_folder
from .study_runs import StudyRuns

PICTURES = 4
"""The worst of a few pictures underestimates the floor: drift beyond it may still be rounding, drift within it is."""


def ensure_reordering_floor(runs: StudyRuns, say: Callable[[str], None]) -> None:
    """Run every variant that was not yet judged as the study judges now; none with random weights.

    A variant that fails here is stored with its reason.
    """
    study = runs.study
    if not study.workload.quality_assessed or not study.quality.reordering_floor:
        return
    known = (runs.results.reordering_floor or {"variants": {}})["variants"]
    names = picture_names(study, min(PICTURES, study.quality.pictures.screen))
    plan = runs.plan(measure=False, memory=False, stages=False, warm_up_calls=1, pictures=names)
    for position, (words, apply_py) in enumerate(reordering_sources().items()):
        if words in known:
            continue
        say(f"reordering floor: {words}")
        run = runs.process(RunKind.REORDERING, Configuration(), plan, position=position, judge=True, apply_py=apply_py)
        run.measurements = {**run.measurements, "variant": words}
        runs.records.add_run(run)
        shutil.rmtree(run_folder(runs.folder, RunKind.REORDERING, 0, position), ignore_errors=True)
