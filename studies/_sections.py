"""The sections of a study file, as they are written; frozen, and checked when they are read."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from ..objectives.figures import FIGURES

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
if TYPE_CHECKING:
    Objective = str
else:  # what can be optimised is said by the table of figures
    Objective = Literal[tuple(figure.name for figure in FIGURES if figure.can_be_optimised)]
LearnedName = Literal["lpips", "dreamsim", "clip_i", "clip_score", "pick_score", "hpsv2", "image_reward"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PipelineSpec(Section):
    """A diffusers pipeline: its class, its weights, and the modules it shares with a pipeline written above it."""

    class_name: str = Field(alias="class")
    model: str
    """A folder (relative to the study file) or a model id of the hub."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """"random" builds the full-size model from `config`: real latency and memory, no quality."""
    config: str | None = None
    """Folder with the published configuration, for random weights."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    variant: str | None = None
    revision: str | None = None
    share: dict[str, str] = {}
    """{component: pipeline}: take this component from that pipeline instead of loading it again."""


class RequestSpec(Section):
    """One call as production makes it."""

    name: Name | None = None
    pipeline: str = "main"
    prompt: str
    negative_prompt: str | None = None
    width_px: int = Field(gt=0, multiple_of=8)
    height_px: int = Field(gt=0, multiple_of=8)
    batch: int = Field(default=1, ge=1)
    steps: int = Field(ge=1)
    guidance: float = Field(default=5.0, ge=0)
    seed: int = 0
    weight: float = Field(default=1.0, gt=0)
    adapters: list[str] = []
    arguments: dict[str, Any] = {}

    @field_validator("arguments")
    @classmethod
    def _plain(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(arguments, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("numbers (finite ones), texts, lists and mappings only") from None
        return arguments


class WorkloadSpec(Section):
    """What is optimised: diffusers pipelines described here, or a Python file that makes them, and the requests."""

    pipelines: dict[Name, PipelineSpec] | None = None
    python: str | None = None
    """A Python file (relative to the study file) with load(device) and run(pipelines, request)."""
    requests: list[RequestSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_source(self) -> "WorkloadSpec":
        if (self.pipelines is None) == (self.python is None):
            raise ValueError("give either pipelines or python, not both and not neither")
        names = [request.name or f"request-{index + 1}" for index, request in enumerate(self.requests)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two requests are called {twice!r}, and their pictures are kept by that name")
        if self.pipelines is not None:
            if any(request.adapters for request in self.requests):
                raise ValueError("requests with adapters need a workload in Python, which says how they are loaded")
            for request in self.requests:
                if request.pipeline not in self.pipelines:
                    raise ValueError(f"a request names the pipeline {request.pipeline!r}, which is not described")
            seen: set[str] = set()
            for name, spec in self.pipelines.items():
                missing = set(spec.share.values()) - seen
                if missing:
                    raise ValueError(
                        f"pipeline {name} shares with {sorted(missing)[0]!r}, which is not written above it"
                    )
                if spec.weights == "random" and spec.config is None:
                    raise ValueError(
                        f"pipeline {name} has random weights, so it needs config: the configuration's folder"
                    )
                seen.add(name)
        return self

    @property
    def quality_assessed(self) -> bool:
        """Whether pictures mean anything: not with random weights."""
        return self.pipelines is None or all(spec.weights == "pretrained" for spec in self.pipelines.values())


class Space(Section):
    """Which techniques may be used; by default all, with all their choices."""

    techniques: dict[str, dict[str, Any] | None] | None = None
    presets: list[list[dict[str, dict[str, Any] | None]]] = []
    """Configurations to measure first, each a list of techniques."""
    files: list[str] = []
    """Python files (relative to the study file) with techniques of your own."""


class LimitsSection(Section):
    """What a configuration has to keep to be acceptable; the sampler learns from what breaks it."""

    verdict: Literal["bit-exact", "imperceptible", "near-lossless", "visible"] | None = None
    """The worst verdict on the pictures that is acceptable."""

    def of(self, figure: str) -> float | None:
        """The most of a figure that is acceptable; None when it is not limited."""
        return getattr(self, figure, None)


if TYPE_CHECKING:
    Limits = LimitsSection
else:  # what can be limited is said by the table of figures
    Limits = create_model(
        "Limits",
        __base__=LimitsSection,
        __doc__=LimitsSection.__doc__,
        **{
            figure.name: (
                float | None,
                Field(default=None, gt=0, description=f"The most {figure.label} that is acceptable, in {figure.unit}."),
            )
            for figure in FIGURES
            if figure.can_be_limited
        },
    )


class Budget(Section):
    """When to stop: after so many measured trials, or so many minutes, whichever comes first."""

    trials: int = Field(default=40, ge=1)
    minutes: float | None = Field(default=None, gt=0)


class Measurement(Section):
    """How each trial is measured."""

    calls: int = Field(default=5, ge=5)
    """Timed calls per shape of request, at least. More follow until the median's 95 % interval is half as wide as the
    noise floor, or most_calls or most_seconds are reached."""
    most_calls: int = Field(default=100, ge=5)
    most_seconds: float = Field(default=20, gt=0)
    """Timed seconds per shape of request, at most (at least `calls` calls are made)."""
    warm_up_calls: int = Field(default=2, ge=1)
    """Calls per shape before timing; the first is the cold one."""
    end_early: bool = True
    """Stop timing a configuration after a few calls when a measured one is clearly better in everything."""
    floor_processes: int = Field(default=5, ge=2)
    """Fresh processes that the unchanged reference is measured in, to know the noise floor."""
    canary_every: int = Field(default=20, ge=0)
    """After so many measured trials the unchanged reference is measured again, to see whether the machine has changed;
    0 never looks."""


class Finalists(Section):
    """How the best of the front are confirmed, in fresh processes that take turns."""

    count: int = Field(default=3, ge=0)
    """How many of the front, the fastest first; 0 confirms nothing."""
    blocks: int = Field(default=8, ge=3)
    """Each block measures the reference, torch.compile and every finalist once, each in a fresh process."""
    minutes: float | None = Field(default=None, gt=0)
    """Begin no block after so long (three are made in any case); fewer blocks see larger differences only."""
    calls: int = Field(default=3, ge=1)
    """Timed calls per shape of request in each process."""
    cold_starts: int = Field(default=3, ge=0)
    """Fresh processes with empty compiler caches per finalist; the median is its cold start."""


class Pictures(Section):
    """How many pictures are judged: more, the nearer a configuration is to being chosen. Requests first, then the same
    requests with other seeds."""

    screen: int = Field(default=8, ge=1)
    front: int = Field(default=16, ge=1)
    finalists: int = Field(default=64, ge=1)


class Quality(Section):
    """How pictures are judged."""

    pictures: Pictures = Pictures()
    weights: Mapping[LearnedName, str] = {}
    """{metric: path of its weights}, relative to the study file. One without weights is reported as not assessed."""
    files: list[str] = []
    """Python files (relative to the study file) with metrics of your own."""
    reordering_floor: bool = True
    """Measure how far pictures drift when only the order of arithmetic changes."""


class Deadlines(Section):
    """Seconds that each phase of a trial may take before it is killed: warm_up, measure, memory and stages per shape of
    request, pictures and judge per 16 pictures."""

    start: float = Field(default=120, gt=0)
    load: float = Field(default=600, gt=0)
    apply: float = Field(default=300, gt=0)
    first_call: float = Field(default=900, gt=0)
    warm_up: float = Field(default=300, gt=0)
    measure: float = Field(default=300, gt=0)
    memory: float = Field(default=120, gt=0)
    pictures: float = Field(default=900, gt=0)
    stages: float = Field(default=120, gt=0)
    judge: float = Field(default=600, gt=0)


class Sampler(Section):
    """Optuna's TPE sampler, multivariate and grouped."""

    seed: int = 0
    startup_trials: int = Field(default=8, ge=1)
