"""The search: propose, measure, tell, until the budget is spent."""

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait

import optuna

from ...search_space import (
    Configuration,
    Goal,
    PipelineFacts,
    Recipe,
    SameEffect,
    SearchSpace,
    fitting_recipes,
    impossible,
    is_quick,
)
from ...studies import Outcome, UserError
from ..measuring import (
    INFRASTRUCTURE_TRIES,
    Begun,
    StudyRuns,
    check_machine,
    judge_more,
    more_pictures,
    unchecked_trials,
)
from ..results import TORCH_COMPILE, FailedBefore, Results, Trial, age_words, failed_before
from ..trial import TrialResult, forget_compiled, target_of, trial_folder
from .events import Event
from .in_flight import InFlight, known_of, outcome_words
from .reuse import Elsewhere, runs_of
from .sampler import Sampler
from .surrogate import Surrogate

FRUITLESS_ASKS = 300
"""Proposals in a row that were known or refused, after which the space counts as exhausted."""
LEFT_OUT_AT_MOST = 3
"""Configurations in a row that no place could run, after which it is the places."""
SMALL_SPACE, PATIENCE = 2000, 10
"""In a space of at most so many configurations, those left are listed after so many proposals without a new one."""


class SearchLoop:
    """Keeps as many configurations in flight as the runner has places, and never the same one twice."""

    def __init__(
        self,
        runs: StudyRuns,
        storage: str,
        *,
        trials: int,
        minutes: float | None,
        reuse: bool,
        recipes_only: bool,
        first: list[Configuration],
        on_event: Callable[[Event], None],
    ) -> None:
        """storage: Optuna's. trials: measured ones in all. reuse: use what other studies have measured. recipes_only:
        end after presets and recipes. first: proposed before anything else.
        """
        self._runs = runs
        record = runs.results.record
        self._space = SearchSpace.from_dict(record.space)
        self._target = target_of(runs.runner.fingerprint)
        self._pipelines = {k: PipelineFacts.from_dict(v) for k, v in record.pipelines.items()}
        self._same_effect = SameEffect(self._pipelines)
        self._noted: set[Configuration] = set()
        self._failed_until: tuple[int, FailedBefore] | None = None
        self._later_recipes: list[Configuration] = []
        self._sampler = Sampler(runs.study, storage, self._space, len(runs.results.trials))
        self._trials = trials
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._recipes_only = recipes_only
        self._first = first
        self._on_event = on_event
        self._surrogate = Surrogate(self._space, self._worth_trying, runs.study.sampler.seed + len(runs.results.trials))
        self._elsewhere = Elsewhere(runs) if reuse else None
        self._in_flight: dict[Future[TrialResult], InFlight] = {}
        self._left_out: dict[Configuration, int] = {}
        self._left_out_in_a_row = 0

    def run(self) -> None:
        """Search until the trials are measured, the time is spent, or the space is exhausted."""
        self._recover()
        study = self._runs.study
        if len(self._results.trials) >= self._trials:
            return
        moved = [not canary.inside for canary in self._results.canaries[-1:]]
        if study.measurement.canary_every > 0 and (any(moved) or unchecked_trials(self._results) > 0):
            self._check_machine()  # has the machine changed since an earlier launch, or is it back?
        try:
            recipes: list[tuple[Recipe, Configuration]] = []
            if self._runs.study.space.recipes:
                recipes = list(fitting_recipes(self._space, self._target, self._pipelines))
            quick = [one for recipe, one in recipes if is_quick(recipe, one)]
            later = [one for recipe, one in recipes if not is_quick(recipe, one)]
            if self._results.reference.constraint_values.get("peak_vram_gib", 0) > 0:
                # What needs too much memory, however fast, is no answer to this study.
                small = [one for recipe, one in recipes if recipe.goal is Goal.LEAST_MEMORY]
                quick, later = small + quick, [one for one in later if one not in small]
            self._enqueue(self._first + self._runs.study.presets() + quick)
            later = self._baseline() + later
            if self._runs.study.sampler.guided:
                self._later_recipes = later
            else:
                self._enqueue(later)
            if len(self._runs.runner.places()) > 1:
                # Each place would wait for these, as pictures are compared with them.
                judge_more(self._runs, self._results.reference.number, study.quality.pictures.front)
            self._search()
        except BaseException:
            for one in self._in_flight.values():  # interrupted: the next launch measures them
                if one.more is None:
                    self._sampler.put_back(one.asked.number)
            raise

    def _search(self) -> None:
        fruitless = 0
        while fruitless < FRUITLESS_ASKS:
            spent = self._deadline is not None and time.monotonic() > self._deadline
            done = self._recipes_only and not self._later_recipes and not self._sampler.has_queued()
            places = len(self._runs.runner.places())
            every = self._runs.study.measurement.canary_every * places
            measuring = sum(one.more is None for one in self._in_flight.values())
            wanted = not (spent or done) and len(self._results.trials) + measuring < self._trials
            if 0 < every <= unchecked_trials(self._results):
                # A check has to run alone, as the processes of the noise floor did.
                self._drain()
                self._check_machine()
            elif wanted and len(self._in_flight) < places:
                self._guide()
                if fruitless and fruitless % PATIENCE == 0 and not self._left_over():
                    break
                fruitless = 0 if self._propose() else fruitless + 1
            elif self._in_flight:
                self._collect()
            else:
                if spent:
                    self._note("the time budget is spent")
                break
        if fruitless >= FRUITLESS_ASKS:
            self._note(f"{FRUITLESS_ASKS} proposals in a row were known or cannot work: the space is exhausted")
        self._drain()

    def _drain(self) -> None:
        while self._in_flight:
            self._collect()

    @property
    def _results(self) -> Results:
        return self._runs.results

    def _baseline(self) -> list[Configuration]:
        """torch.compile as people use it, which every report compares with; it takes its turn among the recipes that
        take minutes. Nothing where it is a preset; what lies outside of the space is measured at once.
        """
        if not self._runs.study.torch_compile_baseline or TORCH_COMPILE in self._runs.study.presets():
            return []
        if TORCH_COMPILE not in self._space and self._unknown(TORCH_COMPILE):
            self._settle(self._sampler.ask_for(TORCH_COMPILE), TORCH_COMPILE)
        return [TORCH_COMPILE] if TORCH_COMPILE in self._space else []

    def _left_over(self) -> bool:
        """In a small space, queue a configuration that is not known yet; False when all of them are."""
        if self._space.size() > SMALL_SPACE:
            return True
        known = {trial.configuration for trial in self._results.trials}
        left = next((c for c in self._space.configurations() if c not in known and self._worth_trying(c)), None)
        if left is None:
            if not self._in_flight:
                self._note("every configuration that can work has been measured")
            return False
        self._enqueue([left])
        return True

    def _unknown(self, configuration: Configuration) -> bool:
        """Whether a configuration may work and is neither measured nor being measured."""
        running = self._running(configuration) is not None or configuration in self._left_out
        return not running and self._why_not(configuration) is None and self._known(configuration) is None

    def _worth_trying(self, configuration: Configuration) -> bool:
        """The same, and nothing of it failed here before."""
        return self._unknown(configuration) and self._failed_before().of(configuration) is None

    def _failed_before(self) -> FailedBefore:
        """What failed here before, the newest trial included; of this study alone where nothing is to be reused."""
        results = self._results
        if self._failed_until is None or self._failed_until[0] != results.newest_link:
            only = None if self._elsewhere is not None else results.name
            found = failed_before(self._runs.records, results.fingerprint, self._pipelines, only=only)
            self._failed_until = results.newest_link, found
        return self._failed_until[1]

    def _why_not(self, configuration: Configuration) -> str | None:
        """Why a configuration is not tried: it cannot work, or the study does not allow it."""
        if self._runs.study.lossless and not configuration.loss.is_none:
            return f"the study is lossless, and this is {configuration.loss}"
        return impossible(configuration, self._target, self._pipelines)

    def _known(self, configuration: Configuration) -> Trial | None:
        """The trial of a configuration, or of one that does the same."""
        exact = self._results.of(configuration)
        if exact is not None:
            return exact
        effect = self._same_effect.of(configuration)
        return next((t for t in self._results.trials if self._same_effect.of(t.configuration) == effect), None)

    def _running(self, configuration: Configuration) -> int | None:
        """The trial in flight that measures a configuration, or one that does the same."""
        effect = self._same_effect.of(configuration)
        running = self._in_flight.values()
        return next((one.asked.number for one in running if self._same_effect.of(one.configuration) == effect), None)

    def _enqueue(self, configurations: list[Configuration]) -> None:
        """Queue what may work and was not measured; say why the others are left out."""
        for configuration in dict.fromkeys(configurations):
            reason = self._why_not(configuration)
            if reason is None and self._unknown(configuration):
                if configuration not in self._space:
                    reason = "it is not in the study's space"
                else:
                    self._sampler.enqueue(configuration)
            if reason is not None:
                self._note(f"preset {configuration} is left out: {reason}")

    def _guide(self) -> None:
        """Queue what the model of the measured trials expects most of, recipes before anything else, unless something
        waits.
        """
        if not self._runs.study.sampler.guided or self._sampler.has_queued():
            return
        known = [known_of(trial) for trial in self._results.before_confirming().trials]
        running = [one.configuration for one in self._in_flight.values() if one.more is None]
        while self._later_recipes and not self._sampler.has_queued():
            recipe = self._surrogate.first_of(self._later_recipes, known, running)
            self._later_recipes.remove(recipe)
            self._enqueue([recipe])
        if not self._recipes_only and not self._sampler.has_queued():
            proposed = self._surrogate.propose(known, running)
            if proposed is not None:
                self._sampler.enqueue(proposed)

    def _propose(self) -> bool:
        """Ask for one configuration, and measure it unless it is known. Returns whether it is new."""
        return self._settle(*self._sampler.ask())

    def _settle(self, asked: optuna.Trial, configuration: Configuration) -> bool:
        """Tell what is known of a configuration, reuse it, or start measuring it. Returns whether it is new."""
        if reason := self._why_not(configuration):
            self._sampler.refuse(asked, reason)
            return False
        if (known := self._known(configuration)) is not None:
            if known.number == asked.number:
                self._sampler.tell(asked, known)
            elif known.configuration == configuration:
                self._sampler.repeat(asked, known.number)
            else:
                self._tell_same(asked, configuration, known)
            return False
        if (running := self._left_out.get(configuration, self._running(configuration))) is not None:
            self._sampler.repeat(asked, running)
            return False
        elsewhere = None if self._elsewhere is None else self._elsewhere.find(configuration)
        if elsewhere is not None:
            self._runs.records.use_runs(self._runs.study.name, asked.number, runs_of(elsewhere))
            age = age_words(elsewhere.timing.finished_at)
            self._go_on(InFlight(asked, configuration, f" (of study {elsewhere.results.name}, {age})"))
            return True
        if (failed := self._failed_before().of(configuration)) is not None:
            self._sampler.refuse(asked, failed.words())
            self._note_once(configuration, f"{configuration} is not tried: {failed.words()}")
            return False
        self._say("trial", str(configuration))
        try:
            future = self._runs.submit_trial(asked.number, configuration, self._front_points())
        except BaseException:
            self._sampler.put_back(asked.number)
            raise
        self._in_flight[future] = InFlight(asked, configuration)
        return True

    def _tell_same(self, asked: optuna.Trial, configuration: Configuration, known: Trial) -> None:
        """Tell the sampler what another trial has measured, and the user, once, why this one is not measured."""
        why = self._same_effect.words(configuration, known.configuration)
        before = self._results.before_confirming().numbered[known.number]
        self._sampler.tell_same(asked, before, why)
        self._note_once(
            configuration, f"{configuration} is the same as trial {known.number}, {known.configuration}: {why}"
        )

    def _note_once(self, configuration: Configuration, text: str) -> None:
        if configuration not in self._noted:
            self._noted.add(configuration)
            self._note(text)

    def _collect(self) -> None:
        """Wait for the next result, store it, and go on with that trial."""
        done, _ = wait(self._in_flight, return_when=FIRST_COMPLETED)
        failed = []
        for future in done:
            one = self._in_flight[future]
            if one.more is None and future.result().outcome is Outcome.INFRASTRUCTURE:
                failed.append(future)
                continue
            # Out of flight first: a launch that is interrupted here finds the trial running, and its run stored or not.
            del self._in_flight[future]
            if one.more is None:
                self._runs.records.add_run(self._runs.trial_run(one.asked.number, one.configuration, future.result()))
                self._left_out_in_a_row = 0
            self._go_on(one)
        for future in failed:
            self._leave_out(future)

    def _leave_out(self, future: "Future[TrialResult]") -> None:
        """What no place could run says nothing of the configuration; of several places, the others go on without it.

        Raises UserError when it is not about the configuration.
        """
        self._left_out_in_a_row += 1
        reason, places = future.result().reason, self._runs.runner.places()
        if len(places) < 2 or self._left_out_in_a_row >= LEFT_OUT_AT_MOST:
            raise UserError(f"trials cannot be run here ({INFRASTRUCTURE_TRIES} tries): {reason}")
        one = self._in_flight.pop(future)
        self._left_out[one.configuration] = one.asked.number
        self._sampler.forget(one.asked.number, reason)
        self._note(f"{one.configuration} could not be run in {INFRASTRUCTURE_TRIES} tries and is left out: {reason}")

    def _go_on(self, one: InFlight) -> None:
        """Judge more pictures of a trial that may be chosen, in further processes; after the last, it is finished."""
        if one.more is None:
            one.more = self._more(one.asked.number)
        if (begun := next(one.more, None)) is not None:
            self._in_flight[begun.future] = one
        else:
            self._finish(one)

    def _more(self, number: int) -> Iterator[Begun]:
        if any(trial.number == number for trial in self._results.front):
            yield from more_pictures(self._runs, number, self._runs.study.quality.pictures.front)

    def _tell(self, asked: optuna.Trial) -> None:
        # On one scale for all of the sampler's trials, whether blocks were measured meanwhile or not.
        self._sampler.tell(asked, self._results.before_confirming().numbered[asked.number])

    def _finish(self, one: InFlight) -> None:
        """Tell and report a trial that was measured or reused, and tidy up."""
        self._tell(one.asked)
        results = self._results
        trial = results.numbered[one.asked.number]
        for other in results.trials:
            # Compiled code is kept only for what may be timed again.
            if other not in (*results.front, results.torch_compile, results.torch_compile_best):
                forget_compiled(trial_folder(self._runs.folder, other.number))
        self._say("result", f"{trial.configuration}: {outcome_words(trial)}{one.how}", front=len(results.front))

    def _recover(self) -> None:
        """Finish what a killed launch left running: what was measured is told, what was not is queued again."""
        for number in self._sampler.running():
            if number not in self._results.numbered and (run := self._runs.finished_trial(number)) is not None:
                self._runs.records.add_run(run)
            if number in self._results.numbered:
                for _ in self._more(number):
                    pass
                self._tell(self._sampler.resume(number))
            else:
                self._sampler.put_back(number)
                shutil.rmtree(trial_folder(self._runs.folder, number), ignore_errors=True)

    def _front_points(self) -> list[dict[str, float]]:
        """The trials of the front: one that is clearly better than a running trial ends it early."""
        study = self._runs.study
        if not study.measurement.end_early:
            return []
        judged = ["drift"] if study.workload.quality_assessed else []
        names = dict.fromkeys(["latency_ms", "peak_vram_gib", *judged, *study.optimised])
        # As they were measured: a running trial knows nothing of later blocks.
        front = self._results.before_confirming().front
        return [{"trial": trial.number, **{name: trial.figure(name) for name in names}} for trial in front]

    def _check_machine(self) -> None:
        check_machine(self._runs, lambda text: self._say("step", text), self._note)

    def _note(self, text: str) -> None:
        self._say("note", text)

    def _say(self, kind: str, text: str, front: int = 0) -> None:
        at_most_s = None if self._deadline is None else self._deadline - time.monotonic()
        self._on_event(Event(kind, text, len(self._results.trials), self._trials, front, at_most_s))
