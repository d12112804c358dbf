"""Measures a configuration, each of its techniques left out, and each alone, in blocks of fresh processes."""

import shutil
from collections.abc import Callable

from ...search_space import Configuration, PipelineFacts, impossible
from ...studies import Outcome, RunKind, RunRecord
from ..results import Trial, alone, without
from ..trial import COMPILED, run_folder, target_of
from .compare import in_turns
from .study_runs import StudyRuns

WARM_UP_CALLS = 2


def variants(trial: Trial) -> list[Configuration]:
    """What is measured: the whole, the reference, and of each technique the rest and the technique alone, once each."""
    whole = trial.configuration
    names = [step.technique for step in whole.steps]
    found = [whole, Configuration(), *(without(whole, name) for name in names), *(alone(whole, name) for name in names)]
    return list(dict.fromkeys(found))


def measure_ablation(
    runs: StudyRuns, trial: Trial, *, blocks: int, calls: int, say: Callable[[int, int, str], None]
) -> None:
    """Measure every variant once per block; in the first block its memory and its pictures too.

    A variant that cannot work, or that fails, is stored with its reason and not tried again. say(done, in all, what).
    An ablation that was interrupted, or had fewer blocks, goes on where it stopped.
    """
    target = target_of(runs.runner.fingerprint)
    pipelines = {name: PipelineFacts.from_dict(facts) for name, facts in runs.results.record.pipelines.items()}
    made = runs.results.runs(RunKind.ABLATION)
    session = max((run.session for run in made if run.trial == trial.number), default=0)
    planned = in_turns(blocks, variants(trial))
    # What the machine is to blame for is tried again.
    newest = [run for run in made if run.session == session and run.outcome != Outcome.INFRASTRUCTURE]
    ended = {(run.position, run.configuration_key) for run in newest}
    failed = {run.configuration_key for run in newest if not run.complete}
    left = [one for block, one in planned if (block, one.key) not in ended and one.key not in failed]
    if not newest or not left or trial.configuration.key in failed:
        session, ended, failed = max((run.session for run in made), default=0) + 1, set(), set()
    scratch = run_folder(runs.folder, RunKind.ABLATION, session, 0).with_name(f"ablation-{session:02d}-{COMPILED}")
    try:
        for done, (block, configuration) in enumerate(planned):
            if configuration.key in failed or (block, configuration.key) in ended:
                continue
            say(done, len(planned), f"block {block + 1} of {blocks}: {configuration}")
            reason = impossible(configuration, target, pipelines)
            if reason is None:
                # Compiled in the first block and used in the others.
                run = _measured(runs, trial, configuration, session, block, calls, str(scratch / configuration.key))
            else:
                run = runs.refused(
                    RunKind.ABLATION, configuration, reason, trial=trial.number, session=session, position=block
                )
            if run.outcome not in (Outcome.COMPLETE, Outcome.INFRASTRUCTURE):
                failed.add(configuration.key)
            runs.records.add_run(run)
            if configuration == trial.configuration and configuration.key in failed:
                return  # there is nothing that the others could be compared with
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _measured(
    runs: StudyRuns, trial: Trial, configuration: Configuration, session: int, block: int, calls: int, compiled: str
) -> RunRecord:
    first = block == 0
    timing = {"calls": calls, "most_calls": calls, "warm_up_calls": WARM_UP_CALLS, "stages": False}
    # The reference has nothing to be compared with.
    judge = first and bool(configuration.steps) and runs.study.workload.quality_assessed
    plan = runs.plan(**timing) if judge else runs.timing_plan(**{k: v for k, v in timing.items() if k != "stages"})
    run = runs.process(
        RunKind.ABLATION,
        configuration,
        plan,
        trial=trial.number,
        session=session,
        position=block,
        judge=judge,
        compiled=compiled,
    )
    shutil.rmtree(run_folder(runs.folder, RunKind.ABLATION, session, block), ignore_errors=True)
    return run
