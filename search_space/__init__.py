"""Techniques by axis, configurations made of them, and the space that a study searches."""

from ._apply_source import apply_source
from ._configuration import Configuration, Step
from ._modules import denoisers, other_modules, text_encoders, torch_modules, vaes
from ._recipes import RECIPES, Goal, Recipe, fitting_recipes
from ._reorderings import reordering_sources
from ._rules import RULES, Case, Rule, impossible
from ._same_effect import SameEffect
from ._space import OFF, ON, SearchSpace
from ._target import ModuleFacts, PipelineFacts, Role, Target, describe_pipelines, known_steps
from ._technique import LOSSES, Axis, Loss, NoParameters, Parameters, Stage, Technique, Trait, Value
from ._techniques import TECHNIQUES, forget_techniques, known_techniques, load_techniques, technique
from ._watch import watch
from ._why_never import why_never

__all__ = [
    "LOSSES",
    "OFF",
    "ON",
    "RECIPES",
    "RULES",
    "TECHNIQUES",
    "Axis",
    "Case",
    "Configuration",
    "Goal",
    "Loss",
    "ModuleFacts",
    "NoParameters",
    "Parameters",
    "PipelineFacts",
    "Recipe",
    "Role",
    "Rule",
    "SameEffect",
    "SearchSpace",
    "Stage",
    "Step",
    "Target",
    "Technique",
    "Trait",
    "Value",
    "apply_source",
    "denoisers",
    "describe_pipelines",
    "fitting_recipes",
    "forget_techniques",
    "impossible",
    "known_steps",
    "known_techniques",
    "load_techniques",
    "other_modules",
    "reordering_sources",
    "technique",
    "text_encoders",
    "torch_modules",
    "vaes",
    "watch",
    "why_never",
]
