"""Segments of GPU memory that grow: less of it lies idle between tensors."""

from collections.abc import Mapping
from typing import Any

from .._target import PipelineFacts, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique


def expandable_segments(pipelines: dict[str, Any]) -> None:
    """For all memory that is asked for from now on; the weights stay in the segments where they are.

    The environment variable PYTORCH_ALLOC_CONF does the same before a process starts.
    """
    import torch

    torch.cuda.empty_cache()
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether there is memory in such segments."""
    import torch

    found = torch.cuda.is_available() and any(segment["is_expandable"] for segment in torch.cuda.memory_snapshot())
    return None if found else "no segment of memory is expandable"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Devices other than CUDA, and workloads that are no pipelines."""
    if target.device != "cuda":
        return "the caching allocator is that of a CUDA device"
    if not any(pipeline.denoisers or pipeline.vaes for pipeline in pipelines.values()):
        return "no pipeline has a denoiser or a VAE"
    return None


TECHNIQUE = Technique(
    name="expandable_segments",
    axis=Axis.MEMORY,
    loss=Loss.BIT_IDENTICAL,
    summary="Lets torch's segments of GPU memory grow in place of asking for new ones: less is lost between tensors.",
    source="https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-alloc-conf",
    parameters=NoParameters,
    apply=expandable_segments,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WEIGHTS,
)
