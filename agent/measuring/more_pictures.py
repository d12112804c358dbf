"""More pictures of a configuration that may be chosen: a verdict on a few pictures is a weak promise."""

import shutil
from collections.abc import Iterator

from ...studies import RunKind, picture_names
from ..trial import COMPILED, LATENTS, PICTURES, run_folder, trial_folder
from .study_runs import Begun, StudyRuns


def judge_more(runs: StudyRuns, number: int, count: int) -> None:
    """Make and judge the pictures of a trial that are missing up to `count`, and wait; see `more_pictures`."""
    for _ in more_pictures(runs, number, count):
        pass


def more_pictures(runs: StudyRuns, number: int, count: int) -> Iterator[Begun]:
    """Make and judge the pictures of a trial that are missing up to `count`, the reference's first. Yields each process
    that it has started, and waits for it when it is asked for the next one.

    A configuration that makes a broken picture then counts as failed. Any other failure may be the machine's: the trial
    stays what it was, and the failed run says why.
    """
    trial = runs.results.numbered[number]
    known = [dict(picture) for picture in trial.judged_pictures]
    judged = {picture["request"] for picture in known}
    missing = tuple(name for name in picture_names(runs.study, count) if name not in judged)
    if not missing or not runs.study.workload.quality_assessed or not trial.complete:
        return
    if not trial.is_reference:
        yield from more_pictures(runs, runs.results.reference.number, count)
        known = [dict(picture) for picture in runs.results.numbered[number].judged_pictures]
    session, position = count, number
    plan = runs.plan(measure=False, memory=False, stages=False, warm_up_calls=1, pictures=missing)
    begun = runs.begin(
        RunKind.PICTURES,
        trial.configuration,
        plan,
        trial=number,
        session=session,
        position=position,
        judge=True,
        known_pictures=known,
        compiled=str(trial_folder(runs.folder, number) / COMPILED),
    )
    yield begun
    run = begun.run()
    folder = run_folder(runs.folder, RunKind.PICTURES, session, position)
    if "quality" in run.measurements:
        # Before the run is stored: files that the database names have to exist. Another study's folder stays as it is.
        own = trial_folder(runs.folder, number)
        for source in (trial.pictures_folder, folder):
            for kept in (PICTURES, LATENTS):
                if source != own and (source / kept).is_dir():
                    shutil.copytree(source / kept, own / kept, dirs_exist_ok=True)
        run.folder = str(own)
    runs.records.add_run(run)
    shutil.rmtree(folder, ignore_errors=True)
