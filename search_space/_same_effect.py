"""Which configurations do the same in a workload, whatever their parameters are."""

from collections.abc import Mapping

from ._configuration import Configuration, Step
from ._target import PipelineFacts
from ._technique import Parameters
from ._techniques import technique


class SameEffect:
    """Configurations of which one stands for all that do the same, by the plans of their techniques."""

    def __init__(self, pipelines: Mapping[str, PipelineFacts]) -> None:
        """pipelines: of the workload, with the requests they serve."""
        self._pipelines = pipelines
        self._first: dict[Step, Step] = {}

    def of(self, configuration: Configuration) -> Configuration:
        """The one that stands for this one and for all that do the same."""
        return Configuration(tuple(self._step(step) for step in configuration.steps))

    def words(self, one: Configuration, other: Configuration) -> str:
        """Why two that do the same do so: "deepcache takes the same steps ..."."""
        differing = [a.technique for a, b in zip(one.steps, other.steps, strict=True) if a != b]
        return f"with these requests the two settings of {' and of '.join(differing)} come to the same"

    def _step(self, step: Step) -> Step:
        if step not in self._first:
            self._first[step] = Step(step.technique, self._parameters(step))
        return self._first[step]

    def _parameters(self, step: Step) -> Parameters:
        plan = technique(step.technique).plan
        wanted = plan(self._pipelines, step.parameters)
        combinations = step.parameters.combinations()
        return next((p for p in combinations if plan(self._pipelines, p) == wanted), step.parameters)
