"""What people use today, and what every claim is therefore compared with, beside the unchanged pipelines."""

from ...search_space import Configuration

TORCH_COMPILE = Configuration.of({"torch_compile": {"region": "whole", "mode": "default"}})
"""torch.compile as people write it: the whole denoiser, default mode."""
_COMPILING = ("torch_compile", "torch_compile_vae", "torch_compile_text_encoders")


def is_torch_compile_alone(configuration: Configuration) -> bool:
    """Whether a configuration is what torch.compile reaches by itself: any of its modes, of whatever regions and
    modules, in any memory format; without options of TorchInductor, and without any other technique.
    """
    names = {step.technique for step in configuration.steps}
    tuned = (configuration.get("torch_compile") or {}).get("recipe", "none") != "none"
    return not tuned and "torch_compile" in names and names <= {*_COMPILING, "channels_last"}
