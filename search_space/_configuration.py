"""A configuration: the ordered list of techniques with every parameter resolved."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from ._technique import LOSSES, Loss, Parameters, Technique
from ._techniques import known_techniques, technique

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Step:
    """One technique with all of its parameters."""

    technique: str
    parameters: Parameters

    def values(self) -> dict[str, Any]:
        """The parameters as plain values, in the order they are declared."""
        return self.parameters.model_dump()


@dataclass(frozen=True)
class Configuration:
    """What is done to a workload's pipelines, in order; empty for the reference.

    Make one with `Configuration.of`, which checks names and values, fills in defaults and puts the techniques into the
    order of application, so that equal configurations compare and hash equal however they were written.
    """

    steps: tuple[Step, ...] = ()

    @classmethod
    def of(
        cls, techniques: Mapping[str, Mapping[str, Any]] | Iterable[tuple[str, Mapping[str, Any]]]
    ) -> "Configuration":
        """From technique names and their parameters.

        Raises ValueError, in one sentence, for an unknown technique, an unknown parameter or a value it does not take.
        """
        pairs = list(techniques.items() if isinstance(techniques, Mapping) else techniques)
        steps = [Step(name, resolve(technique(name), parameters)) for name, parameters in pairs]
        if len({step.technique for step in steps}) < len(steps):
            raise ValueError("a configuration names each technique once")
        rank = {known.name: position for position, known in enumerate(known_techniques())}
        return cls(tuple(sorted(steps, key=lambda step: rank[step.technique])))

    @property
    def key(self) -> str:
        """A hash of the canonical form: the same for the same configuration, on any machine."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=False).encode()).hexdigest()[:16]

    @property
    def loss(self) -> Loss:
        """The most that any of its techniques may lose."""
        losses = [technique(step.technique).loss_with(step.parameters) for step in self.steps]
        return max(losses, key=LOSSES.index, default=Loss.BIT_IDENTICAL)

    def get(self, name: str) -> dict[str, Any] | None:
        """A technique's parameters, or None when it is not used."""
        return next((step.values() for step in self.steps if step.technique == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, complete: schema version and every parameter."""
        return {"schema": SCHEMA_VERSION, "techniques": [{step.technique: step.values()} for step in self.steps]}

    def to_yaml(self) -> str:
        """The text of `configuration.yaml`."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_dict(cls, data: Any) -> "Configuration":
        """The inverse of to_dict. Raises ValueError, in one sentence, for anything else."""
        if not isinstance(data, Mapping) or not isinstance(data.get("techniques"), list):
            raise ValueError("a configuration is a mapping with the keys schema and techniques (a list)")
        unknown = set(data) - {"schema", "techniques"}
        if unknown:
            raise ValueError(f"a configuration has no key {min(unknown, key=str)!r}, only schema and techniques")
        if data.get("schema") != SCHEMA_VERSION:
            raise ValueError(
                f"configuration schema {data.get('schema')!r} is not {SCHEMA_VERSION}, which this version reads"
            )
        pairs = []
        for entry in data["techniques"]:
            if isinstance(entry, str):
                entry = {entry: {}}
            one = isinstance(entry, Mapping) and len(entry) == 1
            if not one or not all(values is None or isinstance(values, Mapping) for values in entry.values()):
                raise ValueError(f"each technique is written as 'name: {{parameters}}', not {entry!r}")
            ((name, parameters),) = entry.items()
            pairs.append((str(name), parameters or {}))
        return cls.of(pairs)

    @classmethod
    def from_yaml(cls, text: str) -> "Configuration":
        """The inverse of to_yaml. Raises ValueError, in one sentence, for anything else."""
        try:
            data = yaml.safe_load(text)
        except RecursionError:
            raise ValueError("not a configuration: it is nested too deeply") from None
        except yaml.YAMLError as error:
            raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None
        return cls.from_dict(data)

    def __str__(self) -> str:
        """Short, for tables: "dtype(bfloat16) + deepcache(interval=2, branch=0)"."""
        if not self.steps:
            return "reference"
        return " + ".join(_short(step) for step in self.steps)


def _short(step: Step) -> str:
    values = step.values()
    if not values:
        return step.technique
    if len(values) == 1:
        return f"{step.technique}({next(iter(values.values()))})"
    return f"{step.technique}({', '.join(f'{name}={value}' for name, value in values.items())})"


def resolve(known: Technique, parameters: Mapping[str, Any]) -> Parameters:
    """Parameters with defaults filled in. Raises ValueError, in one sentence, when one is unknown or out of range."""
    choices = known.parameters.choices()
    if not isinstance(parameters, Mapping):
        raise ValueError(
            f"{known.name}: parameters are a mapping of {', '.join(choices) or 'nothing'}, not {parameters!r}"
        )
    for name, value in parameters.items():
        if name not in choices:
            raise ValueError(f"{known.name} has no parameter {name!r}; it has {', '.join(choices) or 'none'}")
        if not any(value == choice and type(value) is type(choice) for choice in choices[name]):
            raise ValueError(
                f"{known.name}.{name} cannot be {value!r}; it is one of {', '.join(map(str, choices[name]))}"
            )
    try:
        return known.parameters(**parameters)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{known.name}.{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
