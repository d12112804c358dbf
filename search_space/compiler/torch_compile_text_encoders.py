"""torch.compile of the text encoders."""

from collections.abc import Mapping
from typing import Any, Literal

from .._compiled import COMPILED_HELPERS, compiled, not_compiled
from .._modules import text_encoders, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait
from .torch_compile import MODES_WITH_GRAPHS


class TorchCompileTextEncodersParameters(Parameters):
    """mode: torch.compile's own."""

    mode: Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune"] = "default"


def torch_compile_text_encoders(pipelines: dict[str, Any], *, mode: str, artefacts: Any = None) -> None:
    """Compile in place of `forward`."""
    for encoder in text_encoders(pipelines):
        compiled(encoder, "forward", artefacts, mode=mode)


def took_effect(pipelines: dict[str, Any], *, mode: str) -> str | None:
    """Whether every text encoder runs compiled."""
    return not_compiled(text_encoders(pipelines))


def refuses(
    target: Target, pipelines: Mapping[str, PipelineFacts], parameters: TorchCompileTextEncodersParameters
) -> str | None:
    """Modes that need a GPU, and pipelines without a text encoder."""
    if target.device != "cuda" and parameters.mode != "default":
        return f"mode {parameters.mode} needs a CUDA device"
    if not any(pipeline.text_encoders for pipeline in pipelines.values()):
        return "no pipeline has a text encoder"
    return None


def traits(parameters: TorchCompileTextEncodersParameters) -> frozenset[Trait]:
    """What the mode adds to compiling."""
    graphs = {Trait.CUDA_GRAPHS} if parameters.mode in MODES_WITH_GRAPHS else set()
    return frozenset({Trait.COMPILES, *graphs})


TECHNIQUE = Technique(
    name="torch_compile_text_encoders",
    axis=Axis.COMPILER,
    loss=Loss.REORDERED,
    summary="Compiles the text encoders with TorchInductor: for short prompts their calls are mostly launches.",
    source="https://docs.pytorch.org/docs/stable/generated/torch.compile.html",
    parameters=TorchCompileTextEncodersParameters,
    apply=torch_compile_text_encoders,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.COMPILATION,
    traits=traits,
    roles=frozenset({Role.TEXT_ENCODER}),
    adapters_later=(
        "LoRAs and IP-Adapters may be loaded after it; "
        "the first call with a text encoder that a LoRA has changed compiles again."
    ),
    helpers=(torch_modules, text_encoders, *COMPILED_HELPERS),
    artefacts=True,
)
