"""What every technique promises, checked on a pipeline that makes pictures in a moment.

Each check raises AssertionError with a sentence that says what the technique does not keep.
"""

import builtins
import dis
import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import torch

from ..search_space import Loss, Parameters, Target, Technique, counters, denoisers, describe_pipelines, is_installed
from .tiny_sdxl import SIDE_PX, picture, relative_difference, sibling, tiny_sdxl

CLOSE = {"cpu": 1e-4, "cuda": 5e-2}
"""How far a REORDERED technique may move a picture, as a relative difference: rounding, in float32 and in 16 bits."""
SAME_PICTURE = 0.2
"""How far an APPROXIMATE technique may: other seeds and prompts change more."""
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
"""GPU kernels of every kind take bfloat16; on the CPU float32 tells rounding apart from mistakes."""

PipelineFactory = Callable[[str, torch.dtype], Any]
"""(device, dtype) -> a new diffusers pipeline with always the same weights, such as `tiny_sdxl`."""
Picture = Callable[[Any], torch.Tensor]
"""(pipeline) -> (B, 3, H, W) floats in [0, 1] on the CPU, always the same request, such as `picture`."""


def check_technique(
    known: Technique,
    *,
    pipeline_factory: PipelineFactory = tiny_sdxl,
    make_picture: Picture = picture,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> int:
    """Check everything that a technique promises, with every value of every parameter, though not in all combinations.

    pipeline_factory, make_picture: what to try it on, where the tiny SDXL pipeline does not suit it.
    dtype: of the pipeline; by default float32 on the CPU and bfloat16 on a GPU.

    Returns how many combinations of parameters were applied: 0 where it refuses all of them on this device. Raises
    AssertionError, in a sentence, for a promise that is not kept.
    """
    dtype = DTYPES[device] if dtype is None else dtype
    check_description(known)
    combinations = _with_every_value(combinations_that_work(known, pipeline_factory(device, dtype), device))
    example = combinations[0] if combinations else None
    check_exported_source(known, example, pipeline_factory(device, dtype))
    for parameters in combinations:
        values = parameters.model_dump()
        check_promises(known, values, pipeline_factory, make_picture, device=device, dtype=dtype)
        check_notices_untouched(known, values, pipeline_factory, make_picture, device=device, dtype=dtype)
    if example is not None:
        check_later_changes(known, example.model_dump(), pipeline_factory, make_picture, device=device, dtype=dtype)
        check_artefacts(known, example.model_dump(), pipeline_factory, make_picture, device=device, dtype=dtype)
    return len(combinations)


def check_description(known: Technique) -> None:
    """It says what it is, and its function takes the parameters that it declares."""
    assert known.summary.endswith("."), f"{known.name}: the summary is a sentence, with a full stop"
    assert known.source, f"{known.name}: the source says who describes how it works"
    assert known.apply.__doc__, f"{known.name}: its function has no docstring"
    taken = list(inspect.signature(known.apply).parameters)[1:]
    declared = [*known.parameters.choices(), *(["artefacts"] if known.artefacts else [])]
    assert taken == declared, f"{known.name}: its function takes {taken}, and its Parameters are {declared}"


def check_exported_source(known: Technique, parameters: Parameters | None, pipeline: Any) -> None:
    """Its source runs where paretune is not: it uses its helpers, and what is imported inside of functions.

    parameters: what to run it with on `pipeline`; None only looks at it.
    """
    namespace: dict[str, Any] = {"Any": Any}
    for function in (*known.helpers, known.apply):
        source = inspect.getsource(function)
        assert "paretune" not in source, f"{known.name}: {function.__name__}() mentions paretune, which apply.py lacks"
        try:
            exec(source, namespace)
        except Exception as error:
            raise AssertionError(f"{known.name}: {function.__name__}() does not stand alone: {error}") from error
    exported = namespace[known.name]
    for function in (*known.helpers, known.apply):
        missing = _global_names(function.__code__) - set(namespace) - set(dir(builtins))
        assert not missing, (
            f"{known.name}: apply.py would not know {', '.join(sorted(missing))}, which {function.__name__}() uses: "
            "import it inside the function, or put it into helpers"
        )
    if parameters is not None:
        exported({"main": pipeline}, **parameters.model_dump())


def check_promises(
    known: Technique,
    values: dict[str, Any],
    pipeline_factory: PipelineFactory = tiny_sdxl,
    make_picture: Picture = picture,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Applied, it took effect, moves pictures no further than its loss allows, and repeats them exactly.

    A second pipeline that shares the modules works as well, and so do modules and other things beside the pipelines.
    """
    case = f"{known.name}({', '.join(f'{name}={value}' for name, value in values.items())})"
    reference = _untouched(pipeline_factory, make_picture, device, dtype)[1]
    forget_compiled()
    pipeline = pipeline_factory(device, dtype)
    second = sibling(pipeline, type(pipeline.scheduler).from_config(pipeline.scheduler.config))
    module = torch.nn.Linear(2, 2).to(device, dtype)
    pipelines = {"main": pipeline, "second": second, "module": module, "settings": {"unet": 3}}
    known.apply(pipelines, **values)
    first, again = make_picture(pipeline), make_picture(pipeline)
    reason = known.took_effect(pipelines, **values)
    assert reason is None, f"{case}: took_effect says it did not: {reason}"
    assert first.isfinite().all(), f"{case}: the picture has values that are not finite"
    loss = known.loss_with(known.parameters(**values))
    if loss is Loss.BIT_IDENTICAL:
        assert torch.equal(first, reference), f"{case}: {loss}, and the picture has other bits"
    elif loss is not Loss.BY_DESIGN:
        limit = CLOSE[device] if loss is Loss.REORDERED else SAME_PICTURE
        moved = relative_difference(first, reference)
        assert moved < limit, f"{case}: {loss}, and the picture moved by {moved:.2g}; {limit:g} is allowed"
    assert torch.equal(again, first), f"{case}: the same request gives another picture the second time"
    assert make_picture(second).isfinite().all(), f"{case}: a second pipeline of the same modules makes no picture"


def check_notices_untouched(
    known: Technique,
    values: dict[str, Any],
    pipeline_factory: PipelineFactory = tiny_sdxl,
    make_picture: Picture = picture,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """took_effect finds that a pipeline which made a picture, and to which nothing was applied, is unchanged."""
    forget_compiled()
    pipeline = _untouched(pipeline_factory, make_picture, device, dtype)[0]
    noticed = known.took_effect({"main": pipeline}, **values) is not None
    assert noticed, f"{known.name}: took_effect does not notice that it was not applied"


def check_later_changes(
    known: Technique,
    values: dict[str, Any],
    pipeline_factory: PipelineFactory = tiny_sdxl,
    make_picture: Picture = picture,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """A LoRA that is loaded or fused after it was applied shows in the picture, or the next call ends in an error."""
    for what, change in LATER_CHANGES.items():
        wanted = _changed(pipeline_factory, make_picture, device, dtype, what)
        forget_compiled()
        pipeline = pipeline_factory(device, dtype)
        known.apply({"main": pipeline}, **values)
        make_picture(pipeline)
        try:
            change(pipeline)
        except Exception:
            continue  # refused where it was tried, as by quantized weights
        try:
            made = make_picture(pipeline)
        except RuntimeError:
            continue
        off = relative_difference(made, wanted)
        lossless = known.loss_with(known.parameters(**values)).is_none
        limit = CLOSE[device] if lossless else SAME_PICTURE / 2
        if off >= limit and not lossless:
            # It may lose more of a picture like this one: then as much as where the LoRA came first.
            before = pipeline_factory(device, dtype)
            change(before)
            known.apply({"main": before}, **values)
            off, limit = relative_difference(made, make_picture(before)), CLOSE[device]
        assert off < limit, f"{known.name}: {what} after it makes a picture that is {off:.2g} from the right one"


def check_artefacts(
    known: Technique,
    values: dict[str, Any],
    pipeline_factory: PipelineFactory = tiny_sdxl,
    make_picture: Picture = picture,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Where it has artefacts, calls that nothing was built for are counted, and make the picture of the pipeline."""
    if not known.artefacts:
        return
    reference = _untouched(pipeline_factory, make_picture, device, dtype)[1]
    pipeline = pipeline_factory(device, dtype)
    nothing: dict[str, Any] = {"on_miss": "eager", "index": {"parts": []}, "code": {}}
    known.apply({"main": pipeline}, **values, artefacts=nothing)
    made, counted = make_picture(pipeline), counters(pipeline)
    assert torch.equal(made, reference), f"{known.name}: calls without artefacts make another picture"
    assert counted["missed"], f"{known.name}: calls that nothing was built for are not counted as missed"
    assert counted["missed"] == counted["calls"] == counted["eager"], f"{known.name}: they are counted wrongly"


def load_lora(pipeline: Any) -> None:
    """Put a LoRA on the denoisers' attention projections, as peft does: each layer gives its place to one around it."""
    for parent, name, layer in _projections(pipeline):
        setattr(parent, name, _LoraLayer(layer))
    for denoiser in denoisers({"main": pipeline}):
        denoiser._hf_peft_config_loaded = True


def fuse_lora(pipeline: Any) -> None:
    """Load that LoRA, fuse it and unload it, as diffusers and peft do: in place, so that no version counts up."""
    for _, _, layer in _projections(pipeline):
        layer.weight.data += _LoraLayer(layer).delta.to(layer.weight)
    for denoiser in denoisers({"main": pipeline}):
        denoiser._hf_peft_config_loaded = None


LATER_CHANGES: dict[str, Callable[[Any], None]] = {"a LoRA": load_lora, "a fused LoRA": fuse_lora}


class _LoraLayer(torch.nn.Module):
    """A linear layer with a strong LoRA: without it the picture is another one."""

    def __init__(self, base_layer: torch.nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        shape = (base_layer.out_features, base_layer.in_features)
        drawn = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0))
        self.delta = 6 / base_layer.in_features**0.5 * drawn

    @property
    def weight(self) -> torch.Tensor:
        """The weight inside, which others look at."""
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias inside."""
        return self.base_layer.bias

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """With the LoRA."""
        result: torch.Tensor = self.base_layer(value) + torch.nn.functional.linear(value, self.delta.to(value))
        return result


def _projections(pipeline: Any) -> list[tuple[Any, str, torch.nn.Linear]]:
    """(parent, name, layer) of the attention projections."""
    parents = [module for denoiser in denoisers({"main": pipeline}) for module in denoiser.modules()]
    layers = [(parent, name, getattr(parent, name, None)) for parent in parents for name in ("to_q", "to_k", "to_v")]
    return [(parent, name, layer) for parent, name, layer in layers if isinstance(layer, torch.nn.Linear)]


@functools.cache
def _changed(
    pipeline_factory: PipelineFactory, make_picture: Picture, device: str, dtype: torch.dtype, what: str
) -> torch.Tensor:
    """The picture of a pipeline that was changed in that way and to which nothing was applied."""
    pipeline = pipeline_factory(device, dtype)
    LATER_CHANGES[what](pipeline)
    return make_picture(pipeline)


def combinations_that_work(known: Technique, pipeline: Any, device: str = "cpu") -> list[Parameters]:
    """Every combination of parameters that the technique does not refuse for this pipeline and this machine."""
    request = SimpleNamespace(pipeline="main", batch=2, width_px=SIDE_PX, height_px=SIDE_PX, guidance=5.0, adapters=())
    facts = describe_pipelines({"main": pipeline}, [request])
    target = this_machine(device, known.all_packages())
    return [p for p in known.parameters.combinations() if known.why_not(target, facts, p) is None]


def this_machine(device: str, packages: Iterable[str] = ()) -> Target:
    """The device as techniques see it, with those of `packages` that are installed."""
    capability = torch.cuda.get_device_capability() if device == "cuda" else None
    return Target(
        device=device,
        name=device,
        compute_capability=capability,
        packages=frozenset(package for package in packages if is_installed(package)),
    )


def forget_compiled() -> None:
    """Reset what techniques leave behind in this process: graphs of torch.compile, and torch's own switches."""
    # Only where something was compiled: importing the compiler takes seconds.
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_fp16_accumulation = False


@functools.cache
def _untouched(
    pipeline_factory: PipelineFactory, make_picture: Picture, device: str, dtype: torch.dtype
) -> tuple[Any, torch.Tensor]:
    """A pipeline to which nothing is ever applied, and its picture."""
    pipeline = pipeline_factory(device, dtype)
    return pipeline, make_picture(pipeline)


def _with_every_value(combinations: list[Parameters]) -> list[Parameters]:
    """A few of them, which together have every value of every parameter that any has."""
    seen: set[tuple[str, Any]] = set()
    kept: list[Parameters] = []
    for parameters in combinations:
        new = {(name, value) for name, value in parameters.model_dump().items()} - seen
        if new or not kept:
            kept.append(parameters)
            seen |= new
    return kept


def _global_names(code: Any) -> set[str]:
    """Names that a function and the functions in it look up in their module."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_global_names(constant) for constant in code.co_consts if inspect.iscode(constant)))
