"""The benign floor: how far pictures drift when only the order of arithmetic changes, measured per workload."""

import inspect
import shutil
from collections.abc import Callable
from typing import Any

from ...search_space import Configuration
from ...studies import Outcome
from ..trial.folder import run_folder
from .reordering_variants import HELPERS, VARIANTS
from .runner import Runner, picture_names

SCHEMA_VERSION = 1
KIND = "benign"
PICTURES = 4
"""The worst of a few pictures is a low estimate of the floor: what it calls outside may be benign, not the reverse."""


def ensure_benign_floor(runner: Runner, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Run every variant and keep how far its pictures are from the reference's; None where pictures mean nothing.

    A variant that does not run here is kept with its reason. Answered from the database where that was done.
    """
    study = runner.study
    record = runner.records.study(study.name)
    if record.benign_floor is not None or not study.workload.quality_assessed or not study.quality.benign_floor:
        return record.benign_floor
    names = picture_names(study, min(PICTURES, study.quality.pictures.screen))
    plan = runner.plan(measure=False, memory=False, stages=False, warm_up_calls=1, pictures=names)
    variants: dict[str, Any] = {}
    for position, (words, function) in enumerate(VARIANTS.items()):
        say(f"benign floor: {words}")
        functions = "\n\n".join(inspect.getsource(each) for each in (*HELPERS, function))
        source = f"from typing import Any\n\n\n{functions}\n\napply = {function.__name__}\n"
        run = runner.beside(KIND, 0, Configuration(), plan, position=position, judge=True, apply_py=source)
        if run.outcome == Outcome.COMPLETE:
            quality = run.measurements["quality"]
            variants[words] = {key: quality[key] for key in ("n", "verdict", "drift", "worst_metrics")}
        else:
            variants[words] = {"outcome": run.outcome, "reason": run.reason}
        shutil.rmtree(run_folder(runner.folder, KIND, 0, position), ignore_errors=True)
    drifts = [variant["drift"] for variant in variants.values() if "drift" in variant]
    floor = {"schema_version": SCHEMA_VERSION, "variants": variants, "drift": max(drifts, default=None)}
    runner.records.update_study(study.name, benign_floor=floor)
    return floor
