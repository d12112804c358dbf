"""CUDA graphs of the modules that stand beside the pipelines: matting networks, upscalers.

A transformer that finds the background, or an upscaler of densely connected layers, starts some thousand small kernels
once for each picture: beside a denoiser that is recorded, waiting for these is what remains of waiting for the host.
"""

from collections.abc import Mapping
from typing import Any

from .._call_shape import described_switches, switches
from .._modules import torch_modules, user_modules
from .._structure import WATCHING
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique, Trait
from .cuda_graphs import record_parts, recorded, recording_place


def cuda_graphs_modules(pipelines: dict[str, Any]) -> None:
    """Record in place of `forward`, as it is or compiled: a module that is called once in a request is recorded in its
    first call with a shape, so that the second request finds it ready.
    """
    for module in user_modules(pipelines):
        record_parts(module, ["forward"], at_once=True)


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether every module that was called ran from its recordings; a request need not call all of them."""
    called = False
    for module in user_modules(pipelines):
        counts = getattr(module, "cuda_graph_counts", {"forward": {"direct": 1, "replayed": 0}})["forward"]
        called = called or counts["direct"] + counts["replayed"] > 0
        if counts["direct"] and not counts["replayed"]:
            return (
                f"{type(module).__name__} was not recorded: its weights move, no call on the GPU without gradients "
                "repeated one, or what comes out of it cannot be copied"
            )
    return None if called else "none of the modules was called"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Devices other than CUDA, and workloads of pipelines alone."""
    if target.device != "cuda":
        return "CUDA graphs need a CUDA device"
    if not any(entry.beside for entry in pipelines.values()):
        return "there is no module beside the pipelines"
    return None


TECHNIQUE = Technique(
    name="cuda_graphs_modules",
    axis=Axis.COMPILER,
    loss=Loss.BIT_IDENTICAL,
    summary="Records the kernels of the modules beside the pipelines, an upscaler say, and starts them all at once.",
    source="https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs",
    parameters=NoParameters,
    apply=cuda_graphs_modules,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.COMPILATION,
    roles=frozenset({Role.OTHER}),
    traits=frozenset({Trait.CUDA_GRAPHS}),
    helpers=(
        torch_modules,
        user_modules,
        *WATCHING,
        switches,
        described_switches,
        recording_place,
        recorded,
        record_parts,
    ),
    adapters_later="LoRAs and IP-Adapters may be loaded into the pipelines after it.",
)
