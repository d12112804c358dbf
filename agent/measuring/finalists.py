"""The front's best few, confirmed: all their pictures, cold starts, and blocks of fresh processes that take turns."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...objectives.measuring.intervals import Comparison
from ...studies import Outcome, Records, RunRecord
from ..results.confirmation import BLOCK, compare_trials
from ..results.results import Results, Trial, pareto_front
from ..trial.cold_start import measure_cold_start
from ..trial.folder import COMPILED, trial_folder
from .more_pictures import judge_more
from .remeasure import measure_again
from .runner import Runner

COLD_START = "cold-start"
REFERENCE, TORCH_COMPILE = "reference", "torch.compile"
LEAST_BLOCKS = 3
"""Are made however long they take: of fewer, nothing can be said."""
WARM_UP_CALLS = 1
"""In a block's process, before its timed calls."""


@dataclass(frozen=True)
class Confirmation:
    """One configuration against the reference and against torch.compile, in the same blocks."""

    trial: int
    against: dict[str, Comparison]

    @property
    def confirmed(self) -> bool:
        """Whether it is faster than the reference beyond doubt, and no slower than torch.compile."""
        compiled = self.against.get(TORCH_COMPILE)
        faster = REFERENCE in self.against and self.against[REFERENCE].decision == "faster"
        return faster and (compiled is None or compiled.decision != "slower")


def finalists(results: Results, count: int) -> list[Trial]:
    """The best and the fastest of the front, the reference aside.

    Of the front without a noise floor: on a noisy machine everything ties, and blocks are what can tell. What they told
    is left out of account, or a continued launch would find other finalists.
    """
    results = results.before_confirming()
    acceptable = [trial for trial in results.complete if results.acceptable(trial) and not results.is_dominated(trial)]
    front = pareto_front(acceptable, results.study.optimised)
    by_speed = sorted(front, key=lambda trial: trial.figure("latency_ms"))
    chosen = [trial for trial in by_speed if trial.configuration.steps]
    best = results.best_or_none()
    if best is not None and best.configuration.steps:
        chosen = [best, *(trial for trial in chosen if trial is not best)]
    return chosen[:count]


def confirm(
    runner: Runner, records: Records, say: Callable[[str], None], say_block: Callable[[str, int, int], None]
) -> None:
    """Confirm the finalists; what an earlier launch has measured of the same ones is used.

    say: told what is done next; say_block: the same of the blocks' processes, with how many are done, and of how many.
    """
    count = runner.study.finalists.count
    results = _all_finished(runner, records, say)
    while chosen := finalists(results, count):
        # A verdict on all pictures may take a finalist off the front; then another one moves up.
        for trial in chosen:
            say(f"finalist {trial.configuration}: pictures")
            judge_more(runner, trial.number, runner.study.quality.pictures.finalists)
        results = _all_finished(runner, records, say)
        if [t.number for t in finalists(results, count)] == [t.number for t in chosen]:
            break
    if not chosen:
        return
    chosen = finalists(results, count)
    contenders = [results.reference, *chosen]
    compiled = results.torch_compile
    if compiled is not None and compiled.complete and compiled.number not in {t.number for t in chosen}:
        contenders.insert(1, compiled)
    # By number, so that the same contenders always stand in the same order: a continued launch knows them again.
    _run_blocks(runner, records, sorted(contenders, key=lambda trial: trial.number), say_block)
    for trial in contenders:
        _cold_starts(runner, records, trial, say)


def _all_finished(runner: Runner, records: Records, say: Callable[[str], None]) -> Results:
    """The results, once what was ended early for a trial that does not count any more is measured to its end."""
    results = Results(records, runner.study.name)
    if not (unfinished := results.unfinished()):
        return results
    rows = {row.trial: row for row in records.measurements(runner.study.name)}
    for trial in unfinished:
        say(f"to its end: {trial.configuration}")
        measure_again(runner, rows[trial.number], session=0)
    return Results(records, runner.study.name)


def _run_blocks(
    runner: Runner, records: Records, contenders: Sequence[Trial], say: Callable[[str, int, int], None]
) -> None:
    """Every contender once a block, in a fresh process each; the order turns round from block to block (ABBA), so that
    a drift of the machine favours nobody.
    """
    settings = runner.study.finalists
    planned = [
        (block, trial)
        for block in range(settings.blocks)
        for trial in (contenders if block % 2 == 0 else contenders[::-1])
    ]
    runs = records.runs(runner.study.name, BLOCK)
    session = max((run.session for run in runs), default=0)
    begun = list(dict.fromkeys((run.position, run.trial) for run in runs if run.session == session))
    started = time.monotonic()
    complete = {(r.position, r.trial) for r in runs if r.session == session and r.outcome == Outcome.COMPLETE}
    # An interrupted confirmation goes on where it stopped; one of other contenders cannot be mixed with this one.
    if not runs or begun != [(block, trial.number) for block, trial in planned[: len(begun)]]:
        session, complete = session + 1, set()
    for done, (block, trial) in enumerate(planned):
        late = settings.minutes is not None and time.monotonic() - started > 60 * settings.minutes
        if late and block >= LEAST_BLOCKS and done % len(contenders) == 0:
            break
        if (block, trial.number) in complete:
            continue
        say(f"confirming, block {block + 1} of {settings.blocks}: {trial.configuration}", done, len(planned))
        runner.beside(
            BLOCK,
            trial.number,
            trial.configuration,
            runner.plan(
                calls=settings.calls,
                most_calls=settings.calls,
                warm_up_calls=WARM_UP_CALLS + 1,
                memory=False,
                stages=False,
                pictures=(),
            ),
            session=session,
            position=block,
            compiled=trial_folder(runner.folder, trial.number) / COMPILED,
        )


def confirmations(results: Results) -> dict[int, Confirmation]:
    """What the newest confirmation found, by trial; empty when there is none."""
    against = {REFERENCE: results.reference}
    if results.torch_compile is not None:
        against[TORCH_COMPILE] = results.torch_compile
    found = {}
    for trial in results.blocks:
        comparisons = {
            label: comparison
            for label, other in against.items()
            if other.number != trial and (comparison := compare_trials(results.blocks, other.number, trial))
        }
        if trial != results.reference.number and comparisons:
            found[trial] = Confirmation(trial, comparisons)
    return found


def _cold_starts(runner: Runner, records: Records, trial: Trial, say: Callable[[str], None]) -> None:
    """Start cold as often as the study asks for; the median stands beside the estimate that every trial has."""
    wanted = runner.study.finalists.cold_starts
    runs = [run for run in records.runs(runner.study.name, COLD_START) if run.trial == trial.number]
    timeout_s = runner.study.deadlines_s.load + runner.study.deadlines_s.apply + runner.study.deadlines_s.first_call
    while len(_complete(runs)) < wanted and len(runs) < 2 * wanted:
        say(f"cold start {len(runs) + 1} of {wanted}: {trial.configuration}")
        outcome, reason, measured = measure_cold_start(trial.folder, runner.executor.device, timeout_s)
        run = runner.record(COLD_START, trial.number, trial.configuration, outcome, reason, measured, len(runs))
        records.add_run(run)
        runs.append(run)
    seconds = [run.measurements for run in _complete(runs)]
    if not seconds or "cold_start" in trial.measurements:
        return
    median = {key: statistics.median(one[key] for one in seconds) for key in seconds[0]}
    measurements = {
        **trial.measurements,
        "cold_start": {"n": len(seconds), **median},
        "cold_start_measured_s": median["cold_start_s"],
    }
    records.update_measurement(runner.study.name, trial.number, measurements=measurements)


def _complete(runs: Sequence[RunRecord]) -> list[RunRecord]:
    return [run for run in runs if run.outcome == Outcome.COMPLETE]
