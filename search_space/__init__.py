"""Techniques by axis, configurations made of them, and the space that a study searches."""

from ._apply_source import apply_source
from ._configuration import Configuration, Step
from ._rules import RULES, Rule, impossible
from ._space import OFF, ON, SearchSpace
from ._target import ModuleFacts, PipelineFacts, Target, describe_pipelines
from ._technique import LOSSES, Axis, Loss, NoParameters, Parameters, Technique, Value
from ._techniques import TECHNIQUES, known_techniques, load_techniques, technique

__all__ = [
    "LOSSES",
    "OFF",
    "ON",
    "RULES",
    "TECHNIQUES",
    "Axis",
    "Configuration",
    "Loss",
    "ModuleFacts",
    "NoParameters",
    "Parameters",
    "PipelineFacts",
    "Rule",
    "SearchSpace",
    "Step",
    "Target",
    "Technique",
    "Value",
    "apply_source",
    "describe_pipelines",
    "impossible",
    "known_techniques",
    "load_techniques",
    "technique",
]
