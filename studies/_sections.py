"""The sections of a study file, as they are written; frozen, and checked when they are read."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, field_validator

from ..objectives.figures import FIGURES

MOST_SIDE_PX, MOST_BATCH, MOST_STEPS = 16_384, 1024, 10_000
MOST_TRIALS, MOST_PICTURES, MOST_CALLS, MOST_PROCESSES = 100_000, 100_000, 100_000, 1000
MOST_SECONDS, MOST_MINUTES = 30 * 24 * 3600, 365 * 24 * 60
"""Far above what anybody measures; what is larger was mistyped, and would never end."""


def _once_each(items: list[Any]) -> list[Any]:
    if twice := next((item for item in items if items.count(item) > 1), None):
        raise ValueError(f"{twice!r} stands in the list twice")
    return items


def _a_path(path: str) -> str:
    if not path or len(path) > 4000 or any(len(part.encode()) > 255 for part in path.split("/")):
        raise ValueError("a path has 1 to 4,000 characters, and none of its parts more than 255 bytes")
    return path


T = TypeVar("T")
OnceEach = Annotated[list[T], AfterValidator(_once_each)]
FilePath = Annotated[str, AfterValidator(_a_path)]
Word = Annotated[str, Field(min_length=1, max_length=200)]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=80)]
if TYPE_CHECKING:
    Objective = str
else:  # what can be optimised is said by the table of figures
    Objective = Literal[tuple(figure.name for figure in FIGURES if figure.can_be_optimised)]
RuledMetric = Literal["psnr_db", "worst_tile_psnr_db", "ssim", "ssimulacra2", "delta_e_mean", "lpips"]
"""The metrics that near-lossless asks something of."""
FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]
LearnedName = Literal["lpips", "dreamsim", "clip_i", "clip_score", "pick_score", "hpsv2", "image_reward"]


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """The same. Raises ValueError for what JSON cannot hold."""
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("numbers (finite ones), texts, lists and mappings only") from None
    return values


class Section(BaseModel):
    """A part of a study file. The docstring under a key is what docs/study-file.md says of it (`make docs`)."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class PipelineSpec(Section):
    """A diffusers pipeline: its class, its weights, and the modules it shares with a pipeline written above it."""

    class_name: Word = Field(alias="class")
    """The pipeline's class in diffusers, such as `StableDiffusionXLPipeline`."""
    model: FilePath
    """A folder (relative to the study file) or a model id of the hub. With random weights it is only a name."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`pretrained` loads the weights of `model`; `random` builds the full-size model from `config` without them:
    latency and memory are real, pictures are not judged."""
    config: FilePath | None = None
    """Folder with the model's published configuration (relative to the study file): needed for random weights, not
    used with pretrained ones."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """The number format that the weights are loaded in, and that the reference runs in."""
    variant: Word | None = None
    """Which weight files of the model to load, as diffusers names them: `fp16` for `*.fp16.safetensors`."""
    revision: Word | None = None
    """Branch, tag or commit of the model on the hub."""
    share: dict[Word, Name] = {}
    """`{component: pipeline}`: take this component from that pipeline instead of loading it again."""
    without: OnceEach[Word] = []
    """Components that are not loaded, as `safety_checker=None` does in diffusers: `[safety_checker]`."""


class RequestSpec(Section):
    """One call as production makes it."""

    name: Name | None = None
    """What its pictures are called. Requests without a name are `request-1`, `request-2` and so on, by their place."""
    pipeline: str = "main"
    """The pipeline that serves it. With a workload in Python, which pipelines serve a request is recorded while it is
    served (docs/workload.md), and this matters only for one that needs no denoiser."""
    prompt: str
    """What the picture is to show."""
    negative_prompt: str | None = None
    """What it is not to show. To some models, SDXL among them, no negative prompt and an empty one are not the same."""
    width_px: int = Field(gt=0, le=MOST_SIDE_PX, multiple_of=8)
    """Width of the picture."""
    height_px: int = Field(gt=0, le=MOST_SIDE_PX, multiple_of=8)
    """Height of the picture."""
    batch: int = Field(default=1, ge=1, le=MOST_BATCH)
    """Pictures made in one call, with the seeds `seed`, `seed + 1` and so on."""
    steps: int = Field(ge=1, le=MOST_STEPS)
    """Denoising steps."""
    guidance: float = Field(default=5.0, ge=0, le=1000)
    """Scale of classifier-free guidance; 1 or less is without it."""
    seed: int = Field(default=0, ge=0, le=2**64 - 1)
    """Seed of the first picture. The reference and every trial use the same seeds."""
    weight: float = Field(default=1.0, gt=0, le=1e9)
    """How often production sends this request, relative to the others: latency is the mean weighted by it."""
    adapters: OnceEach[Word] = []
    """Names of the adapters that it uses. Needs a workload in Python, whose `run()` loads them (docs/workload.md)."""
    image: FilePath | None = None
    """A picture's file (relative to the study file), for pipelines that begin with one: image to image, inpainting,
    ControlNet. It is scaled to the request's size. A workload in Python finds a copy's path in `request.image`."""
    mask_image: FilePath | None = None
    """The mask's file, for inpainting: white is painted anew. Likewise."""
    arguments: dict[str, Any] = {}
    """More arguments of the pipeline's call, which has to know them; a workload in Python finds them in
    `request.arguments`, whatever they are."""

    @field_validator("arguments")
    @classmethod
    def _plain(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        return plain(arguments)


SET_BY_PARETUNE = {
    "prompt": "from the request's prompt",
    "negative_prompt": "from the request's negative_prompt",
    "width": "from the request's width_px",
    "height": "from the request's height_px",
    "num_inference_steps": "from the request's steps",
    "guidance_scale": "from the request's guidance",
    "generator": "from the request's seed",
    "image": "from the request's image, a file",
    "mask_image": "from the request's mask_image, a file",
    "num_images_per_prompt": "to 1: write the number of pictures as the request's batch, with which they are made in "
    "one call",
    "output_type": "because it judges the pictures as tensors",
    "return_dict": "because it takes the pictures from what the pipeline returns",
}
"""Arguments of a pipeline's call that are keys of a request, or nobody else's to set, and why."""


class Space(Section):
    """Which techniques may be used, what is tried first, and techniques of your own."""

    techniques: dict[str, dict[str, Any] | None] | None = None
    """`{technique: {parameter: value or list of values}}`: only these techniques, with only these choices. A parameter
    that is left out has all of its choices, and so has a technique with `{}`. Not set, those that the device gains
    from. `paretune techniques` lists them all; the ones "only on request" are used only where they stand here."""
    presets: list[list[dict[str, dict[str, Any] | None]]] = []
    """Configurations to measure first, each a list of techniques: `- [deepcache: {interval: 2}, fused_qkv: {}]`. A
    parameter that is left out has its default. One that is not in the space is left out, and the launch says so."""
    recipes: bool = True
    """After the presets, measure the recipes: whole configurations that are known to be strong on such a device, as far
    as they lie in the space."""
    files: OnceEach[FilePath] = []
    """Python files (relative to the study file) with techniques of your own."""


class LimitsSection(Section):
    """What a configuration has to keep to be acceptable; the sampler learns to avoid what breaks it."""

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
                Field(
                    default=None,
                    **({"ge": 0} if figure.may_be_zero else {"gt": 0}),
                    description=f"The highest acceptable {figure.label}, in {figure.unit}: {figure.meaning}.",
                ),
            )
            for figure in FIGURES
            if figure.can_be_limited
        },
    )


class Budget(Section):
    """When to stop: after a number of trials or of minutes, whichever comes first."""

    trials: int = Field(default=40, ge=1, le=MOST_TRIALS)
    """Trials in all: the reference, failures, and those of earlier launches count."""
    minutes: float | None = Field(default=None, gt=0, le=MOST_MINUTES)
    """Start no trial after searching this long. The reference and the noise floor come before the search, confirming
    the finalists after it."""


class Measurement(Section):
    """How each trial is measured."""

    calls: int = Field(default=5, ge=5, le=MOST_CALLS)
    """Timed calls per shape of request, at least. More follow until the median's 95 % interval is half as wide as the
    noise floor, or `most_calls` or `most_seconds` are reached."""
    most_calls: int = Field(default=100, ge=5, le=MOST_CALLS)
    """Timed calls per shape of request, at most."""
    most_seconds: float = Field(default=20, gt=0, le=MOST_SECONDS)
    """Timed seconds per shape of request, at most (at least `calls` calls are made)."""
    warm_up_calls: int = Field(default=2, ge=1, le=MOST_CALLS)
    """Calls per shape before timing; the first is the cold one."""
    end_early: bool = True
    """Stop timing a configuration after a few calls when a measured one is clearly better in everything."""
    floor_processes: int = Field(default=5, ge=2, le=MOST_PROCESSES)
    """Fresh processes that the unchanged reference is measured in, to know the noise floor."""
    canary_every: int = Field(default=20, ge=0, le=MOST_TRIALS)
    """After so many measured trials the unchanged reference is measured again, to see whether the machine has changed;
    0 turns this off."""


class Finalists(Section):
    """How the best of the front are confirmed, in fresh processes that take turns."""

    count: int = Field(default=3, ge=0, le=MOST_PROCESSES)
    """How many of the front, the fastest first; 0 confirms nothing."""
    blocks: int = Field(default=8, ge=3, le=MOST_PROCESSES)
    """Each block measures the reference, torch.compile as people write it and at its best, and every finalist once,
    each in a fresh process."""
    minutes: float | None = Field(default=None, gt=0, le=MOST_MINUTES)
    """Start no block after so many minutes (three are made in any case). Fewer blocks show only larger differences."""
    calls: int = Field(default=3, ge=1, le=MOST_CALLS)
    """Timed calls per shape of request in each process."""
    cold_starts: int = Field(default=3, ge=0, le=MOST_PROCESSES)
    """Fresh processes with empty compiler caches per finalist; the median is its cold start. What compiles does so
    once, and loads its compiled code in these, as a worker with the bundle."""


class Pictures(Section):
    """How many pictures are judged: more, the nearer a configuration is to being chosen. Requests first, then the same
    requests with other seeds."""

    screen: int = Field(default=8, ge=1, le=MOST_PICTURES)
    """Of every trial, at least."""
    front: int = Field(default=16, ge=1, le=MOST_PICTURES)
    """Of a trial that comes onto the Pareto front."""
    finalists: int = Field(default=64, ge=1, le=MOST_PICTURES)
    """Of a finalist, before it is confirmed."""


class Quality(Section):
    """How pictures are judged."""

    pictures: Pictures = Pictures()
    """How many pictures are judged, at each stage of the search."""
    weights: Mapping[LearnedName, FilePath] = {}
    """`{metric: path of its weights}`, relative to the study file. One without weights is reported as not assessed."""
    files: OnceEach[FilePath] = []
    """Python files (relative to the study file) with metrics of your own."""
    near_lossless: Mapping[RuledMetric, FiniteNumber] = {}
    """`{metric: threshold}`: what a picture must reach to be near-lossless, instead of the numbers in
    docs/quality.md. `paretune calibrate` finds them from people's ratings."""
    reordering_floor: bool = True
    """Measure how far pictures drift when only the order of arithmetic changes."""


class Deadlines(Section):
    """Seconds that each phase of a trial may take before it is killed: `warm_up`, `measure`, `memory` and `stages` per
    shape of request, `pictures` and `judge` per 16 pictures."""

    start: float = Field(default=120, gt=0, le=MOST_SECONDS)
    """Until the trial's process begins to load."""
    load: float = Field(default=600, gt=0, le=MOST_SECONDS)
    """Loading the pipelines."""
    apply: float = Field(default=300, gt=0, le=MOST_SECONDS)
    """Applying the techniques."""
    first_call: float = Field(default=900, gt=0, le=MOST_SECONDS)
    """The first call, in which a compiler compiles."""
    warm_up: float = Field(default=300, gt=0, le=MOST_SECONDS)
    """The calls before timing."""
    measure: float = Field(default=300, gt=0, le=MOST_SECONDS)
    """The timed calls."""
    memory: float = Field(default=120, gt=0, le=MOST_SECONDS)
    """The calls that peak memory is taken from."""
    pictures: float = Field(default=900, gt=0, le=MOST_SECONDS)
    """Making the pictures to be judged that the timed calls have not made."""
    stages: float = Field(default=120, gt=0, le=MOST_SECONDS)
    """The calls that the time per stage is taken from."""
    judge: float = Field(default=600, gt=0, le=MOST_SECONDS)
    """Comparing the pictures with the reference's."""


class Sampler(Section):
    """What proposes configurations once presets and recipes are measured."""

    guided: bool = True
    """Propose what a model of the measured trials expects most of (Bayesian optimisation). Where it knows too little,
    and without it, Optuna's TPE sampler proposes, multivariate and grouped."""

    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seed of the sampler. Two searches with the same seed still differ, because measured times do."""
    startup_trials: int = Field(default=8, ge=1, le=MOST_TRIALS)
    """TPE's proposals are random until so many trials, presets included, are known."""
