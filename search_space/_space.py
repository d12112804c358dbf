"""The conditional Optuna space: which techniques, and which of their values, a study may choose from."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._configuration import Configuration
from ._target import PipelineFacts, Target
from ._technique import Parameters, Technique, Value
from ._techniques import known_techniques, technique
from ._why_never import why_not_on

if TYPE_CHECKING:
    import optuna

OFF, ON = "off", "on"


@dataclass(frozen=True)
class SearchSpace:
    """{technique: {parameter: choices}}, in the order of application.

    In Optuna a technique is a categorical `technique` (off, on), and each parameter with more than one choice a
    categorical `technique.parameter` that exists only where the technique is on.
    """

    techniques: Mapping[str, Mapping[str, tuple[Value, ...]]]

    @classmethod
    def of(cls, selection: Mapping[str, Mapping[str, Any]] | None = None) -> "SearchSpace":
        """The space that a study file asks for: the named techniques with the named choices, or all that are not for
        request only.

        Raises ValueError, in one sentence, for an unknown technique, parameter or choice.
        """
        if selection is None:
            selection = {known.name: {} for known in known_techniques() if not known.on_request}
        chosen = {name: _narrowed(technique(name), wanted or {}) for name, wanted in selection.items()}
        return cls({known.name: chosen[known.name] for known in known_techniques() if known.name in chosen})

    @classmethod
    def from_dict(cls, techniques: Mapping[str, Mapping[str, Sequence[Value]]]) -> "SearchSpace":
        """The inverse of to_dict, also after a way through JSON."""
        return cls({name: {p: tuple(v) for p, v in choices.items()} for name, choices in techniques.items()})

    def to_dict(self) -> dict[str, dict[str, list[Value]]]:
        """Plain, JSON-able."""
        return {name: {p: list(v) for p, v in choices.items()} for name, choices in self.techniques.items()}

    def possible(self, target: Target, pipelines: Mapping[str, PipelineFacts]) -> tuple["SearchSpace", dict[str, str]]:
        """Without the techniques and values that can never work there, and the reasons of what was left out."""
        return self._where(lambda known, parameters: known.why_not(target, pipelines, parameters))

    def possible_on(self, target: Target) -> tuple["SearchSpace", dict[str, str]]:
        """Without what can never work on a device, whatever the pipelines."""
        return self._where(lambda known, parameters: why_not_on(known, target, parameters))

    def lossless(self) -> tuple["SearchSpace", dict[str, str]]:
        """Without the techniques and values that may lose more than rounding, and what each of them is."""

        def reason(known: Technique, parameters: Parameters) -> str | None:
            loss = known.loss_with(parameters)
            return None if loss.is_none else f"the study is lossless, and this is {loss}"

        return self._where(reason)

    def _where(self, reason: Callable[[Technique, Parameters], str | None]) -> tuple["SearchSpace", dict[str, str]]:
        """What is left where a reason is given against techniques with certain parameters, and those reasons."""
        kept: dict[str, Mapping[str, tuple[Value, ...]]] = {}
        left_out: dict[str, str] = {}
        for name, choices in self.techniques.items():
            known = technique(name)
            verdicts = [(p, reason(known, p)) for p in known.parameters.combinations(choices)]
            workable = [parameters for parameters, why_not in verdicts if why_not is None]
            if not workable:
                left_out[name] = next(why_not for _, why_not in verdicts if why_not is not None)
                continue
            kept[name] = {
                parameter: tuple(v for v in values if any(getattr(p, parameter) == v for p in workable))
                for parameter, values in choices.items()
            }
            for parameter, values in choices.items():
                for value in values:
                    if value not in kept[name][parameter]:
                        reasons = [why_not for p, why_not in verdicts if getattr(p, parameter) == value]
                        left_out[f"{name}.{parameter}={value}"] = str(reasons[0])
        return SearchSpace(kept), left_out

    def suggest(self, trial: "optuna.Trial") -> Configuration:
        """The configuration that the sampler proposes."""
        chosen = {}
        for name, choices in self.techniques.items():
            if trial.suggest_categorical(name, [OFF, ON]) == ON:
                chosen[name] = {
                    parameter: values[0]
                    if len(values) == 1
                    else trial.suggest_categorical(f"{name}.{parameter}", list(values))
                    for parameter, values in choices.items()
                }
        return Configuration.of(chosen)

    def optuna_parameters(self, configuration: Configuration) -> dict[str, Value]:
        """What to enqueue so that `suggest` gives this configuration.

        Raises ValueError, in one sentence, when the configuration lies outside the space.
        """
        parameters: dict[str, Value] = dict.fromkeys(self.techniques, OFF)
        for step in configuration.steps:
            if step.technique not in self.techniques:
                raise ValueError(f"{step.technique} is not in the study's space")
            parameters[step.technique] = ON
            for parameter, value in step.values().items():
                choices = self.techniques[step.technique][parameter]
                if value not in choices:
                    raise ValueError(f"{step.technique}.{parameter}={value} is not in the study's space")
                if len(choices) > 1:
                    parameters[f"{step.technique}.{parameter}"] = value
        return parameters

    def __contains__(self, configuration: Configuration) -> bool:
        try:
            self.optuna_parameters(configuration)
        except ValueError:
            return False
        return True

    def configurations(self) -> Iterator[Configuration]:
        """Every configuration, combinations that clash included."""
        options = []
        for name, choices in self.techniques.items():
            combinations = itertools.product(*choices.values())
            options.append([None, *((name, dict(zip(choices, c, strict=True))) for c in combinations)])
        for chosen in itertools.product(*options):
            yield Configuration.of([pair for pair in chosen if pair is not None])

    def size(self) -> int:
        """How many configurations there are, combinations that clash included."""
        total = 1
        for choices in self.techniques.values():
            combinations = 1
            for values in choices.values():
                combinations *= len(values)
            total *= 1 + combinations
        return total


def _narrowed(known: Technique, wanted: Mapping[str, Any]) -> dict[str, tuple[Value, ...]]:
    choices = known.parameters.choices()
    if not isinstance(wanted, Mapping):
        raise ValueError(f"space.{known.name}: write its parameters as a mapping, or {{}} for all choices")
    for parameter, values in wanted.items():
        if parameter not in choices:
            raise ValueError(f"{known.name} has no parameter {parameter!r}; it has {', '.join(choices) or 'none'}")
        values = values if isinstance(values, list) else [values]
        if not values:
            raise ValueError(f"space.{known.name}.{parameter} lists no choice")
        for value in values:
            if sum(value == other and type(value) is type(other) for other in values) > 1:
                raise ValueError(f"space.{known.name}.{parameter}: {value!r} stands in the list twice")
            if not any(value == choice and type(value) is type(choice) for choice in choices[parameter]):
                allowed = ", ".join(map(str, choices[parameter]))
                raise ValueError(f"{known.name}.{parameter} cannot be {value!r}; it is one of {allowed}")
        choices[parameter] = tuple(values)
    return choices
