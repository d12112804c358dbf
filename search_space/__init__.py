"""Techniques by axis, configurations made of them, and the space that a study searches."""

from ._apply_source import apply_source
from ._artefacts import counters
from ._by_device import Offer, default_space, offered
from ._call_shape import described_switches
from ._configuration import Configuration, Step
from ._modules import denoisers, other_modules, text_encoders, torch_modules, user_modules, vaes
from ._packages import how_to_install, is_installed
from ._patience import MAKES_NOTHING_FASTER, patience
from ._recipes import RECIPES, Goal, Recipe, fitting_recipes, is_quick
from ._reorderings import reordering_sources
from ._rules import RULES, Case, Rule, impossible
from ._same_effect import SameEffect
from ._space import OFF, ON, SearchSpace
from ._structure import module_structure, module_weights
from ._target import ModuleFacts, PipelineFacts, Role, Target, describe_pipelines, known_steps
from ._technique import LOSSES, Axis, Loss, NoParameters, Parameters, Stage, Technique, Trait, Value
from ._techniques import TECHNIQUES, forget_techniques, known_techniques, load_techniques, technique
from ._visits import with_visits
from ._watch import watch
from ._why_never import variants, why_never, why_not_on

__all__ = [
    "LOSSES",
    "MAKES_NOTHING_FASTER",
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
    "described_switches",
    "fitting_recipes",
    "forget_techniques",
    "how_to_install",
    "impossible",
    "is_installed",
    "is_quick",
    "known_steps",
    "known_techniques",
    "load_techniques",
    "module_structure",
    "module_weights",
    "offered",
    "other_modules",
    "patience",
    "reordering_sources",
    "technique",
    "text_encoders",
    "torch_modules",
    "user_modules",
    "vaes",
    "variants",
    "watch",
    "why_never",
    "why_not_on",
    "with_visits",
]
