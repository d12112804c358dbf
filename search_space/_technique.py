"""What a technique is: one way to change a pipeline, with typed parameters.

A technique lives in a file of its own, in the folder of its axis. The file holds a `Parameters` class, one plain
function that applies the technique with public libraries only, one that checks that it took effect, and the
`TECHNIQUE` that ties them together. The source of the plain function is what a bundle ships.
"""

import itertools
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict

from ._packages import how_to_install
from ._target import PipelineFacts, Role, Target

Value = str | int | float | bool
"""A parameter's value: what Optuna stores and YAML writes without help."""


class Axis(StrEnum):
    """The families of techniques."""

    COMPILER = "compiler"
    ATTENTION = "attention"
    CACHING = "caching"
    PRECISION = "precision"
    MEMORY = "memory"
    ADAPTERS = "adapters"
    """How IP-Adapters and LoRAs come and go."""
    SAMPLING = "sampling"
    """Another way from noise to picture: only on request."""


class Loss(StrEnum):
    """What a technique may lose, by the way it works; what it did lose is measured as drift."""

    BIT_IDENTICAL = "bit-identical"
    """The same operations on the same numbers: the same bits."""
    REORDERED = "reordered"
    """The same mathematics in another order or by another kernel: rounding differs."""
    APPROXIMATE = "approximate"
    """Other mathematics: fewer bits, skipped work, blended tiles."""
    BY_DESIGN = "different by design"
    """Another picture is what is asked for."""

    @property
    def is_none(self) -> bool:
        """Whether what comes out is what the arithmetic says, but for its rounding: what `lossless` allows."""
        return self in (Loss.BIT_IDENTICAL, Loss.REORDERED)


LOSSES = (Loss.BIT_IDENTICAL, Loss.REORDERED, Loss.APPROXIMATE, Loss.BY_DESIGN)
"""From the least to the most that can be lost."""


class Stage(IntEnum):
    """When a technique is applied, from the first to the last."""

    WEIGHTS = 1
    """What the weights are: their number format, adapters that are merged into them."""
    LAYERS = 2
    """Which layers and processors there are, and how their weights lie: quantized weights can no longer be joined."""
    QUANTIZATION = 3
    """Weights become tensors of another class. Before compilation, which would keep the old ones."""
    STRUCTURE = 4
    """What forward() computes, and the parts in which a compiler finds it."""
    COMPILATION = 5
    """Graphs of what the stages before have left."""
    WRAPPERS = 6
    """What stays outside of compiled graphs: wrappers of forward(), switches of the VAE."""
    PLACEMENT = 7
    """Where weights wait: the hook that moves a module to the device has to run before everything else."""
    LAST = 8
    """After everything else: a user's own technique that names no stage."""


class Trait(StrEnum):
    """What a technique does that matters to others: rules ask for traits, so that they hold for a user's own too."""

    COMPILES = "compiles"
    """Modules run as graphs of a compiler."""
    COMPILES_WHOLE = "compiles whole"
    """The denoiser is one graph, and hooks on the modules inside it are part of it."""
    CUDA_GRAPHS = "records CUDA graphs"
    """Kernels are replayed with the memory addresses that they were recorded with."""
    QUANTIZES = "quantizes"
    """Weights are tensors of another class than torch.Tensor."""
    CASTS_WEIGHTS = "casts weights"
    """Weights are converted to another number format for each call, and back after it."""
    FREEZES_LAYERS = "freezes layers"
    """Modules keep the layers and weights of their first call: what comes later is ignored."""
    REPLACES_PROCESSORS = "replaces attention processors"
    """Attention layers get other processors or projections."""
    CALLS_INNER_LAYERS = "calls inner layers"
    """Layers inside a block are called one by one, past the block's forward() and the hooks on it."""
    CACHES_STEPS = "caches steps"
    """Some steps of the denoiser reuse what others have computed."""
    HOOKS_LAYERS = "hooks layers"
    """Hooks on layers inside the denoiser decide from step to step what is computed."""
    GUIDES_LESS = "guides less"
    """Some steps run without classifier-free guidance."""
    WRITES_WEIGHTS = "writes weights"
    """Weights get other values between requests, in place."""
    MOVES_WEIGHTS = "moves weights"
    """Weights travel between main memory and the device while pictures are made."""


class Parameters(BaseModel):
    """The parameters of one technique: every field is a `Literal` or a `bool`, so that all choices can be listed.

    A field's default is what `configuration.yaml` may leave out; it is written out when the file is read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def choices(cls) -> dict[str, tuple[Value, ...]]:
        """Every parameter's allowed values, in the order they are declared."""
        return dict(_choices(cls))

    @classmethod
    def combinations(cls, choices: Mapping[str, tuple[Value, ...]] | None = None) -> Iterator["Parameters"]:
        """Every combination of `choices` (by default of all choices)."""
        choices = cls.choices() if choices is None else choices
        for values in itertools.product(*choices.values()):
            yield cls(**dict(zip(choices, values, strict=True)))


@cache
def _choices(parameters: type[Parameters]) -> dict[str, tuple[Value, ...]]:
    return {name: _values(name, field.annotation) for name, field in parameters.model_fields.items()}


def _values(name: str, annotation: Any) -> tuple[Value, ...]:
    if annotation is bool:
        return (False, True)
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    raise TypeError(f"parameter {name}: a technique's parameters are Literal or bool, not {annotation}")


class NoParameters(Parameters):
    """For a technique that is on or off."""


def never_refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: Any) -> str | None:
    """For a technique that runs everywhere."""
    return None


def declared(pipelines: Mapping[str, PipelineFacts], parameters: "Parameters") -> Any:
    """The plan of a technique of which every combination of parameters does something else."""
    return parameters.model_dump()


@dataclass(frozen=True, kw_only=True)
class Technique:
    """One way to change a pipeline.

    apply(pipelines, **parameters) changes `pipelines` ({name: diffusers pipeline}) in place. It acts on modules, once
    each, however many pipelines share them. It imports public libraries only, inside its body, and calls nothing
    outside itself but its `helpers`: its source is exported.

    took_effect(pipelines, **parameters) looks at pipelines that have been applied to and run at least once, and
    returns why nothing changed, or None.

    refuses(target, pipelines, parameters) returns in one sentence why this cannot work there, or None. It sees
    descriptions, not the pipelines: it is asked before anything is started.

    stage says when it is applied; within a stage, in the order of TECHNIQUES, and a user's own after those.

    loss says what it may lose: one of Loss, or, where that depends on the parameters, a function that takes them.

    plan(pipelines, parameters) returns what these parameters make it do to the requests described there, as plain data:
    parameters with equal plans make the same pictures in the same time, and one of them is measured. None says that it
    would change nothing. By default every combination of parameters does something of its own.

    What makes a technique ineffective or wrong after it was applied is watched by the technique itself: its function
    calls `watch` (search_space/_watch.py) with a function that says so.

    traits say what may clash with other techniques (search_space/_rules.py): a set, or, where that depends on the
    parameters, a function that takes them and returns a set.

    roles say what kinds of modules it changes, in the same two ways: techniques clash only on modules that both change.
    """

    name: str
    axis: Axis
    loss: Loss | Callable[[Any], Loss]
    summary: str
    """One sentence for people: what it does and what it is good for."""
    source: str
    """Paper, documentation or code that says how it works."""
    parameters: type[Parameters]
    apply: Callable[..., None]
    took_effect: Callable[..., str | None]
    refuses: Callable[[Target, Mapping[str, PipelineFacts], Any], str | None] = never_refuses
    stage: Stage = Stage.LAST
    traits: frozenset[Trait] | Callable[[Any], frozenset[Trait]] = frozenset()
    roles: frozenset[Role] | Callable[[Any], frozenset[Role]] = frozenset(Role)
    helpers: tuple[Callable[..., Any], ...] = ()
    adapters_later: str = "It is not known which adapters may be loaded after it."
    """What may be loaded into the pipelines or changed in them after apply(), in a sentence for a bundle's README."""
    plan: Callable[[Mapping[str, PipelineFacts], Any], Any] = declared
    packages: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
    """Python packages (as pip names them, with the version where one is needed: "sageattention>=2.1.1") that it needs
    beyond torch and diffusers; or, where that depends on the parameters, a function that takes them."""
    artefacts: bool = False
    """Whether its function takes `artefacts` too: what open_artefacts() gave (search_space/_artefacts.py), or None.
    What it compiles can then travel in a bundle. It is built in a fresh process while the requests run, call by call,
    because an adapter may be there in some of them only."""
    on_request: bool = False
    """Whether it is used only where a study names it."""

    def __post_init__(self) -> None:
        for function in (self.apply, *self.helpers):
            if not isinstance(function, types.FunctionType) or function.__closure__:
                raise TypeError(f"technique {self.name}: {function} must be a plain function, its source is exported")
        if self.apply.__name__ != self.name:
            raise TypeError(f"technique {self.name}: its function must have the same name")

    def traits_with(self, parameters: Parameters) -> frozenset[Trait]:
        """Its traits with these parameters."""
        return self.traits(parameters) if callable(self.traits) else self.traits

    def roles_with(self, parameters: Parameters) -> frozenset[Role]:
        """The kinds of modules that it changes with these parameters."""
        return self.roles(parameters) if callable(self.roles) else self.roles

    def packages_with(self, parameters: Parameters) -> tuple[str, ...]:
        """The packages that it needs with these parameters."""
        return self.packages(parameters) if callable(self.packages) else self.packages

    def all_packages(self) -> frozenset[str]:
        """The packages that it needs with any parameters."""
        return frozenset(p for parameters in self.parameters.combinations() for p in self.packages_with(parameters))

    def loss_with(self, parameters: Parameters) -> Loss:
        """What it may lose with these parameters."""
        return self.loss if isinstance(self.loss, Loss) else self.loss(parameters)

    def losses(self) -> tuple[Loss, ...]:
        """What it may lose with any parameters, from the least to the most."""
        found = {self.loss_with(parameters) for parameters in self.parameters.combinations()}
        return tuple(loss for loss in LOSSES if loss in found)

    def why_not(self, target: Target, pipelines: Mapping[str, PipelineFacts], parameters: Parameters) -> str | None:
        """Why it cannot be applied with these parameters there, or None."""
        missing = [package for package in self.packages_with(parameters) if package not in target.packages]
        if missing:
            return f"the package {missing[0]} is not installed: {how_to_install(missing[0])}"
        reason = self.refuses(target, pipelines, parameters)
        if reason is None and self.plan(pipelines, parameters) is None:
            return "it changes nothing in the steps that the requests take"
        return reason
