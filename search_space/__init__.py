"""Techniques by axis, configurations made of them, and the space that a study searches."""

from ._apply_source import apply_source
from ._artefacts import counters
from ._by_device import Offer, default_space, offered
from ._configuration import Configuration, Step
from ._modules import denoisers, other_modules, text_encoders, torch_modules, vaes
from ._packages import how_to_install, is_installed
from ._recipes import RECIPES, Goal, Recipe, fitting_recipes
from ._reorderings import reordering_sources
from ._rules import RULES, Case, Rule, impossible
from ._same_effect import SameEffect
from ._space import OFF, ON, SearchSpace
from ._target import ModuleFacts, PipelineFacts, Role, Target, describe_pipelines, known_steps
from ._technique import LOSSES, Axis, Loss, NoParameters, Parameters, Stage, Technique, Trait, Value
from ._techniques import TECHNIQUES, forget_techniques, known_techniques, load_techniques, technique
from ._watch import watch
from ._why_never import variants, why_never, why_not_on

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
    "Offer",
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
    "counters",
    "default_space",
    "denoisers",
    "describe_pipelines",
    "fitting_recipes",
    "forget_techniques",
    "how_to_install",
    "impossible",
    "is_installed",
    "known_steps",
    "known_techniques",
    "load_techniques",
    "offered",
    "other_modules",
    "reordering_sources",
    "technique",
    "text_encoders",
    "torch_modules",
    "vaes",
    "variants",
    "watch",
    "why_never",
    "why_not_on",
]
