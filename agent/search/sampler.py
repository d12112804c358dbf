"""Optuna's side of a study: what it proposes and what it is told."""

from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from ...search_space import Configuration, SearchSpace
from ...studies import Outcome, Study, optuna_storage, refuse_foreign_study
from ..results import Trial


class Sampler:
    """Proposes configurations. Samplers ignore failed trials, so a failure is PRUNED with a violated constraint."""

    def __init__(self, study: Study, storage: str, space: SearchSpace, measured: int) -> None:
        """Open the study in Optuna, or create it there. measured: how many trials are known.

        Raises UserError when another program has made one of that name.
        """
        self._study = study
        self._space = space
        in_database = optuna_storage(storage)
        refuse_foreign_study(in_database, study.name, study.optimised, launched=True)
        self._told = optuna.create_study(
            study_name=study.name,
            storage=in_database,
            directions=["minimize"] * len(study.optimised),
            # Another seed per launch: with the same one, a continued study would propose again what it has measured.
            sampler=TPESampler(
                multivariate=True,
                group=True,
                n_startup_trials=study.sampler.startup_trials,
                seed=study.sampler.seed + measured,
            ),
            load_if_exists=True,
        )
        self._told.set_metric_names(study.optimised)
        if not self._told.get_trials(deepcopy=False):
            self._told.enqueue_trial(space.optuna_parameters(Configuration()))

    def ask(self) -> tuple[optuna.Trial, Configuration]:
        """The next proposal; queued ones come first."""
        trial = self._told.ask()
        configuration = self._space.suggest(trial)
        trial.set_user_attr("configuration", str(configuration))
        return trial, configuration

    def ask_for(self, configuration: Configuration) -> optuna.Trial:
        """A trial for a configuration outside the space, from which the sampler cannot learn."""
        # Not by asking, which would take what is queued.
        attrs = {"configuration": str(configuration)}
        self._told.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=attrs))
        return self.resume(self.running()[-1])

    def has_queued(self) -> bool:
        """Whether a proposal waits."""
        return bool(self._told.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def enqueue(self, configuration: Configuration) -> None:
        """Propose a configuration of the space next, once."""
        waiting = self._told.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        parameters = self._space.optuna_parameters(configuration)
        if parameters not in [trial.system_attrs.get("fixed_params") for trial in waiting]:
            self._told.enqueue_trial(parameters)

    def refuse(self, trial: optuna.Trial, reason: str, outcome: Outcome = Outcome.UNSUPPORTED) -> None:
        """Close a proposal that does not work here, or is known not to."""
        trial.set_user_attr("outcome", outcome.value)
        trial.set_user_attr("reason", reason[:300])
        trial.set_constraint("runs", 1.0)
        self._told.tell(trial, state=TrialState.PRUNED)

    def repeat(self, trial: optuna.Trial, known: int) -> None:
        """Close a proposal that another trial has measured already."""
        trial.set_user_attr("reason", f"the same as trial {known}")
        self._told.tell(trial, state=TrialState.PRUNED)

    def forget(self, number: int, reason: str) -> None:
        """Close a proposal of which nothing could be found out: samplers pass over what has failed."""
        self.resume(number).set_user_attr("reason", reason[:300])
        self._told.tell(number, state=TrialState.FAIL)

    def tell_same(self, trial: optuna.Trial, measured: Trial, why: str) -> None:
        """Close a proposal with what another trial has measured that does the same with other parameters."""
        trial.set_user_attr("the same as", f"trial {measured.number}: {why}")
        self.tell(trial, measured)

    def tell(self, trial: optuna.Trial, measured: Trial) -> None:
        """Tell how a trial ended, with the figures of a complete one."""
        if not measured.complete:
            self.refuse(trial, measured.reason, measured.outcome)
            return
        trial.set_user_attr("outcome", measured.outcome.value)
        trial.set_user_attr("verdict", str(measured.verdict))
        if measured.elsewhere is not None:
            trial.set_user_attr("measured in study", measured.elsewhere.study)
        # Constraints cannot be changed once set, and a retried trial would inherit them: so they come last.
        for name, value in {"runs": -1.0, **measured.constraint_values}.items():
            trial.set_constraint(name, value)
        self._told.tell(trial, [measured.figure(name) for name in self._study.optimised])

    def running(self) -> list[int]:
        """The trials that a killed launch left unfinished."""
        return [trial.number for trial in self._told.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]

    def resume(self, number: int) -> optuna.Trial:
        """An unfinished trial, to be told."""
        return optuna.Trial(self._told, self._told.get_trials(deepcopy=False)[number]._trial_id)

    def put_back(self, number: int) -> None:
        """Fail a trial that was not finished, and queue its configuration again."""
        trial = self._told.get_trials(deepcopy=False)[number]
        self._told.tell(number, state=TrialState.FAIL)
        # With what it was queued with: a launch may be killed before it has read all of a preset.
        parameters: dict[str, Any] = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if parameters:
            self._told.enqueue_trial(parameters)
