"""What a technique may know before anything is started: the device, and a description of the pipelines."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Target:
    """The device that a study runs on."""

    device: str
    """"cuda" or "cpu"."""
    name: str
    compute_capability: tuple[int, int] | None = None
    memory_gib: float = 0.0
    """GiB of GPU memory; of main memory when there is no GPU."""
    packages: frozenset[str] = frozenset()
    """Installed packages that techniques may need, as pip names them."""

    def sm(self) -> int:
        """The compute capability as one number, 89 for (8, 9); 0 without a GPU."""
        return self.compute_capability[0] * 10 + self.compute_capability[1] if self.compute_capability else 0


@dataclass(frozen=True, kw_only=True)
class ModuleFacts:
    """One module of a pipeline."""

    class_name: str
    dtype: str
    """As torch names it without the prefix: "float16"."""
    parameters_m: float
    """Millions of parameters."""
    tile_side_px: int | None = None
    """For a VAE: pictures up to this side are decoded in one tile."""
    layers_per_block: int | None = None
    """For a U-Net: residual layers in its first block."""


@dataclass(frozen=True, kw_only=True)
class PipelineFacts:
    """One pipeline of a workload and the largest request it serves."""

    class_name: str
    modules: Mapping[str, ModuleFacts] = field(default_factory=dict)
    largest_batch: int = 1
    largest_side_px: int = 0
    guided: bool = True
    """Whether any request uses classifier-free guidance."""
    adapters: bool = False
    """Whether adapters are loaded and unloaded between requests."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PipelineFacts":
        """The inverse of to_dict."""
        modules = {name: ModuleFacts(**facts) for name, facts in data["modules"].items()}
        return cls(**{**data, "modules": modules})


def describe_pipelines(pipelines: Mapping[str, Any], requests: Iterable[Any]) -> dict[str, PipelineFacts]:
    """Describe loaded diffusers pipelines and what is asked of them.

    requests: objects with pipeline, batch, width_px, height_px, guidance and adapters.
    """
    requests = list(requests)
    return {
        name: _describe(pipeline, [r for r in requests if r.pipeline == name]) for name, pipeline in pipelines.items()
    }


def _describe(pipeline: Any, requests: list[Any]) -> PipelineFacts:
    import torch

    modules = {}
    for name, module in getattr(pipeline, "components", {}).items():
        if isinstance(module, torch.nn.Module):
            parameters = list(module.parameters())
            blocks: Any = getattr(module, "down_blocks", None)
            modules[name] = ModuleFacts(
                class_name=type(module).__name__,
                dtype=str(parameters[0].dtype).removeprefix("torch.") if parameters else "none",
                parameters_m=round(sum(p.numel() for p in parameters) / 1e6, 3),
                tile_side_px=getattr(module, "tile_sample_min_size", None),
                layers_per_block=len(blocks[0].resnets) if blocks else None,
            )
    return PipelineFacts(
        class_name=type(pipeline).__name__,
        modules=modules,
        largest_batch=max((r.batch for r in requests), default=1),
        largest_side_px=max((max(r.width_px, r.height_px) for r in requests), default=0),
        guided=any(r.guidance > 1 for r in requests),
        adapters=any(r.adapters for r in requests),
    )
