"""Which kernel computes attention: torch's choice, or one of its kernels and no other."""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, torch_modules, vaes
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique


class SdpaKernelParameters(Parameters):
    """unet, vae: the kernel for the denoiser (a U-Net or a transformer) and for the VAE, because their shapes differ:
    the VAE's single attention head has 512 channels, which flash and cuDNN cannot do. "default" leaves it to torch.
    """

    unet: Literal["default", "flash", "efficient", "cudnn", "math"] = "default"
    vae: Literal["default", "efficient", "math"] = "default"


def sdpa_kernel(pipelines: dict[str, Any], *, unet: str, vae: str) -> None:
    """Run forward() with one kernel allowed; torch raises where that kernel cannot work, it never falls back."""
    from torch.nn.attention import SDPBackend
    from torch.nn.attention import sdpa_kernel as only

    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "math": SDPBackend.MATH,
    }

    def restrict(module: Any, kernel: str) -> None:
        inner = module.forward

        # A compiled graph keeps the kernel of its first call, so the restriction has to hold in every call.
        def forward(*args: Any, **kwargs: Any) -> Any:
            module.sdpa_kernel_calls += 1
            with only([backends[kernel]]):
                return inner(*args, **kwargs)

        module.sdpa_kernel_calls = 0
        module.forward = forward

    if unet != "default":
        for module in denoisers(pipelines):
            restrict(module, unet)
    if vae != "default":
        for module in vaes(pipelines):
            # Pipelines call vae.decode(), never vae.forward().
            restrict(module.decoder, vae)


def took_effect(pipelines: dict[str, Any], *, unet: str, vae: str) -> str | None:
    """Whether the modules ran inside the restriction (torch itself sees to it that no other kernel was used)."""
    chosen = denoisers(pipelines) if unet != "default" else []
    chosen += [module.decoder for module in vaes(pipelines)] if vae != "default" else []
    if not chosen or not all(getattr(module, "sdpa_kernel_calls", 0) for module in chosen):
        return "a module did not run with the chosen kernel"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: SdpaKernelParameters) -> str | None:
    """Kernels that the device or the dtypes rule out, and the choice of nothing."""
    if parameters.unet == parameters.vae == "default":
        return "both kernels are torch's default, which changes nothing"
    found = pipelines.values()
    for name, modules, kernel in (
        ("denoiser", [pipeline.denoisers for pipeline in found], parameters.unet),
        ("VAE", [pipeline.vaes for pipeline in found], parameters.vae),
    ):
        if kernel == "default":
            continue
        if not any(modules):
            return f"no pipeline has a {name}"
        if target.device != "cuda" and kernel in ("efficient", "cudnn"):
            return f"{kernel} attention needs a CUDA device"
        if target.device == "cuda" and kernel in ("flash", "cudnn") and target.sm() < 80:
            return f"{kernel} attention needs compute capability 8.0"
    return None


def roles(parameters: SdpaKernelParameters) -> frozenset[Role]:
    """The modules whose kernel is chosen."""
    chosen = {Role.DENOISER: parameters.unet, Role.VAE: parameters.vae}
    return frozenset(role for role, kernel in chosen.items() if kernel != "default")


TECHNIQUE = Technique(
    name="sdpa_kernel",
    axis=Axis.ATTENTION,
    loss=Loss.REORDERED,
    summary="Computes attention with one chosen kernel (flash, memory-efficient, cuDNN or plain matrix products).",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.attention.sdpa_kernel.html",
    parameters=SdpaKernelParameters,
    apply=sdpa_kernel,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    roles=roles,
    helpers=(torch_modules, denoisers, vaes),
)
