"""Which kernel computes attention: torch's choice, or one of its kernels and no other."""

from collections.abc import Mapping
from typing import Any, Literal

from .._calls import wrap_forward
from .._modules import denoisers, text_encoders, torch_modules, vaes
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique


class SdpaKernelParameters(Parameters):
    """unet, vae: the kernel for the denoiser (a U-Net or a transformer) and for the VAE, because their shapes differ:
    the VAE's single attention head has 512 channels, which flash and cuDNN cannot do. "default" leaves it to torch.
    """

    unet: Literal["default", "flash", "efficient", "cudnn", "math"] = "default"
    vae: Literal["default", "efficient", "math"] = "default"


def sdpa_kernel(pipelines: dict[str, Any], *, unet: str, vae: str) -> None:
    """Run forward() with one kernel allowed; torch raises where that kernel cannot work, it never falls back.

    torch has one such switch for the whole process. Calls in two threads would turn it for each other, so they raise
    RuntimeError.
    """
    import threading

    import torch
    from torch.nn.attention import SDPBackend
    from torch.nn.attention import sdpa_kernel as only

    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "math": SDPBackend.MATH,
    }
    # Threads that are inside of a module of the pipelines, one entry for each module they are in.
    inside: list[int] = []
    turning = threading.Lock()

    def enclose(module: Any, kernel: str) -> None:
        if hasattr(module, "_orig_mod"):
            raise ValueError("sdpa_kernel: a module is compiled already, and its graph keeps the kernel that it has")

        # A compiled graph keeps the kernel of its first call, so the restriction has to hold in every call.
        def enclosed(inner: Any, *args: Any, **kwargs: Any) -> Any:
            with turning:
                if set(inside) - {threading.get_ident()}:
                    raise RuntimeError(
                        "sdpa_kernel: two threads call the pipelines at once, and torch can choose an attention kernel "
                        "only for the whole process; let one wait for the other, or leave the technique out"
                    )
                inside.append(threading.get_ident())
            try:
                if kernel == "default":
                    return inner(*args, **kwargs)
                module.sdpa_kernel_calls["count"] += 1
                with only([backends[kernel]]):
                    return inner(*args, **kwargs)
            finally:
                inside.remove(threading.get_ident())

        module.sdpa_kernel_calls = {"count": 0}
        wrap_forward(module, "sdpa_kernel", enclosed)

    for module in denoisers(pipelines):
        enclose(module, unet)
    for module in vaes(pipelines):
        # Pipelines call vae.encode() and vae.decode(), never vae.forward().
        for half in (getattr(module, "encoder", None), getattr(module, "decoder", None)):
            if isinstance(half, torch.nn.Module):
                enclose(half, vae)
    for module in text_encoders(pipelines):
        enclose(module, "default")


def took_effect(pipelines: dict[str, Any], *, unet: str, vae: str) -> str | None:
    """Whether the modules ran inside the restriction (torch itself sees to it that no other kernel was used)."""
    chosen = denoisers(pipelines) if unet != "default" else []
    chosen += [module.decoder for module in vaes(pipelines)] if vae != "default" else []
    if not chosen or not all(getattr(module, "sdpa_kernel_calls", {}).get("count") for module in chosen):
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
    adapters_later=(
        "LoRAs and IP-Adapters may be loaded after it; attention slicing and xFormers would take the place of "
        "the chosen kernel."
    ),
    helpers=(torch_modules, denoisers, vaes, text_encoders, wrap_forward),
)
