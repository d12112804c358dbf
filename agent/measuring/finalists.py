"""The front's best few, confirmed: all their pictures, cold starts, and blocks of fresh processes that take turns."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ...studies import RunKind, RunRecord
from ..bundle import WAY
from ..results import Results, Trial, carries_code
from ..trial import COMPILED, trial_folder
from .compare import in_turns
from .more_pictures import judge_more
from .study_runs import StudyRuns

LEAST_BLOCKS = 3
"""Made however long they take: fewer would prove nothing."""
CONFIRMING_PLACES = 2
"""What is faster at one place only is no claim about the configuration; a third would say little more."""
WARM_UP_CALLS = 1
"""In a block's process, before its timed calls."""


def finalists(results: Results, count: int) -> list[Trial]:
    """The best and the fastest of the front without the reference; one more if canaries found that the machine changed.
    On an unsteady machine only the fastest of the front, since there every latency ties with the best one.

    Chosen as if nothing had been confirmed, so that a continued launch finds the same ones.
    """
    if any(not canary.inside for canary in results.canaries):
        count += 1
    plain = results.before_confirming()
    chosen = sorted(plain.front, key=lambda trial: trial.figure("latency_ms"))
    if (best := plain.best_or_none) is not None and not plain.unsteady:
        chosen = [best, *(trial for trial in chosen if trial is not best)]
    return [results.numbered[trial.number] for trial in chosen if not trial.is_reference][:count]


def confirm(runs: StudyRuns, say: Callable[[str], None], say_block: Callable[[str, int, int], None]) -> None:
    """Confirm the finalists, using what an earlier launch measured of the same ones.

    say: told what is done next. say_block: likewise for each process of a block, with how many are done, of how many.
    """
    count = runs.study.finalists.count
    if count == 0:
        return
    chosen: list[Trial] = []
    while (now := finalists(runs.results, count)) and [t.number for t in now] != [t.number for t in chosen]:
        # A verdict on all pictures may take a finalist off the front; then another one moves up.
        chosen = now
        for trial in chosen:
            say(f"finalist {trial.configuration}: pictures")
            judge_more(runs, trial.number, runs.study.quality.pictures.finalists)
    chosen = finalists(runs.results, count)
    if not chosen:
        return
    contenders = {trial.number: trial for trial in (runs.results.reference, *chosen)}
    for compiled in (runs.results.torch_compile, runs.results.torch_compile_best):
        if compiled is not None and compiled.complete:
            contenders.setdefault(compiled.number, compiled)
    # By number: a continued launch recognises the same contenders by their order.
    in_order = [contenders[number] for number in sorted(contenders)]
    _run_blocks(runs, in_order, say_block)
    for trial in in_order:
        _start_cold(runs, trial, say)


def _run_blocks(runs: StudyRuns, contenders: Sequence[Trial], say: Callable[[str, int, int], None]) -> None:
    """Measure every contender once per block, each in a fresh process: all at one place, with the others idle, and then
    all of it at a second one, where there is one.
    """
    planned = in_turns(runs.study.finalists.blocks, contenders)
    places = runs.runner.places()[:CONFIRMING_PLACES]
    made = runs.results.linked_runs(RunKind.BLOCK)
    session = max((one.run.session for one in made), default=0)
    begun = {
        place: list(dict.fromkeys((one.run.position, one.trial) for one in made if _of(one.run, session, place)))
        for place in {one.run.worker for one in made if one.run.session == session}
    }
    as_planned = [(block, trial.number) for block, trial in planned]
    # An interrupted confirmation goes on where it stopped; blocks of other contenders, or elsewhere, do not count.
    if not begun or any(place not in places or as_planned[: len(of)] != of for place, of in begun.items()):
        session += 1
    for number, place in enumerate(places):
        again = "" if number == 0 else f" at a second place, {place}"
        _blocks_at(runs, planned, len(contenders), session, place, partial(_say_where, say, again))


def _say_where(say: Callable[[str, int, int], None], where: str, text: str, done: int, total: int) -> None:
    say(text + where, done, total)


def _of(run: RunRecord, session: int, place: str) -> bool:
    return run.session == session and run.worker == place


def _blocks_at(
    runs: StudyRuns,
    planned: Sequence[tuple[int, Trial]],
    width: int,
    session: int,
    place: str,
    say: Callable[[str, int, int], None],
) -> None:
    """width: processes per block."""
    settings = runs.study.finalists
    ended = {
        (one.run.position, one.trial)
        for one in runs.results.linked_runs(RunKind.BLOCK)
        if _of(one.run, session, place) and one.run.complete
    }
    calls = settings.calls
    plan = runs.timing_plan(calls=calls, most_calls=calls, warm_up_calls=WARM_UP_CALLS + 1, memory=False)
    started = time.monotonic()
    for done, (block, trial) in enumerate(planned):
        late = settings.minutes is not None and time.monotonic() - started > 60 * settings.minutes
        if late and block >= LEAST_BLOCKS and done % width == 0:
            break
        if (block, trial.number) in ended:
            continue
        say(f"confirming, block {block + 1} of {settings.blocks}: {trial.configuration}", done, len(planned))
        run = runs.process(
            RunKind.BLOCK,
            trial.configuration,
            plan,
            trial=trial.number,
            session=session,
            position=block,
            place=place,
            compiled=str(trial_folder(runs.folder, trial.number) / COMPILED),
        )
        runs.records.add_run(run)


def _start_cold(runs: StudyRuns, trial: Trial, say: Callable[[str], None]) -> None:
    """Start cold as often as the study asks for; the median stands beside the estimate that every trial has.

    What compiles does so once, for comparison; the others load compiled code, as a worker that has its bundle.
    """
    wanted = runs.study.finalists.cold_starts
    compiling, loading = (min(1, wanted), wanted) if carries_code(trial.configuration) else (wanted, 0)
    _start(runs, trial, trial.folder, None, compiling, say)
    if loading and _made(trial, WAY) < loading:
        say(f"building compiled code: {trial.configuration}")
        with runs.with_compiled_code(trial.configuration, trial.folder) as folder:
            if folder is not None:
                _start(runs, trial, folder, WAY, loading, say)


def _made(trial: Trial, way: str | None) -> int:
    return sum(run.complete and run.measurements.get("way") == way for run in trial.runs(RunKind.COLD_START))


def _start(
    runs: StudyRuns, trial: Trial, folder: Path, way: str | None, wanted: int, say: Callable[[str], None]
) -> None:
    """Start a folder until `wanted` cold starts of this way have succeeded, or as many have failed."""
    done, tried, before = _made(trial, way), 0, len(trial.runs(RunKind.COLD_START))
    while done < wanted and tried < 2 * wanted:
        say(f"cold start {done + 1} of {wanted}{'' if way is None else ' with compiled code'}: {trial.configuration}")
        run = runs.cold_start(trial.number, trial.configuration, folder, before + tried, way)
        done, tried = done + run.complete, tried + 1
        runs.records.add_run(run)
