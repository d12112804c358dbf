"""Ablate a trial: what each of its techniques earns, measured on the machine that measured the study."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ...studies import Records, UserError
from ..measuring import Runner, StudyRuns, measure_ablation
from ..results import Ablation, Results, ablation_of
from .launch import local_runner, refuse_another_machine
from .lock import only_launcher


def ablate(
    records: Records,
    name: str,
    number: int | None = None,
    *,
    blocks: int = 4,
    calls: int = 3,
    runner: Runner | None = None,
    on_step: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Ablation:
    """Measure and store an ablation of trial `number`, by default of the best one.

    Raises UserError for the reference, another machine, or when too little could be measured to say anything.
    """
    results = Results(records, name)
    trial = results.best() if number is None else results.trial(number)
    if trial.is_reference:
        raise UserError(f"trial {trial.number} of {name} is the unchanged pipeline: there is nothing to leave out")
    if blocks < 2:
        raise UserError("an ablation needs at least 2 blocks")
    folder = Path(results.record.files)
    with only_launcher(records, name, doing="ablated"), closing(runner or local_runner(results.study)) as chosen:
        runs = StudyRuns(results.study, records, chosen, folder, results.record.import_s)
        refuse_another_machine(runs)
        measure_ablation(runs, trial, blocks=blocks, calls=calls, say=on_step)
        found = ablation_of(runs.results, runs.results.trial(trial.number))
    if found is None:
        raise UserError(f"trial {trial.number} of {name} could not be measured in two blocks: the report lists why")
    return found
