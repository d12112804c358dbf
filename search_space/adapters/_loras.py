"""What the techniques for LoRAs have in common."""

from collections.abc import Mapping

from .._target import PipelineFacts, Target
from .._technique import Parameters
from .._visits import LORA


def refuses_without_loras(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: Parameters) -> str | None:
    """Workloads in which no LoRA comes or goes."""
    if not any(pipeline.denoisers for pipeline in pipelines.values()):
        return "no pipeline has a denoiser"
    kind = LORA.removesuffix(":")
    if not any(pipeline.adapters and kind in pipeline.adapter_kinds for pipeline in pipelines.values()):
        return "no request loads or unloads a LoRA"
    return None
