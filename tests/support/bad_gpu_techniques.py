"""Techniques that go wrong on a GPU: a study loads this file as a user's own."""

from typing import Any

from paretune.search_space import Axis, Loss, NoParameters, Technique


def devour_gpu(pipelines: dict[str, Any]) -> None:
    import torch

    blocks = []
    while True:
        blocks.append(torch.empty(1 << 30, dtype=torch.uint8, device="cuda"))


def hang_gpu(pipelines: dict[str, Any]) -> None:
    import torch

    torch.cuda._sleep(1 << 50)  # a kernel that runs for days
    torch.cuda.synchronize()


def segfault_gpu(pipelines: dict[str, Any]) -> None:
    import os
    import signal

    import torch

    torch.zeros(1 << 28, device="cuda")
    os.kill(os.getpid(), signal.SIGSEGV)


def device_assert(pipelines: dict[str, Any]) -> None:
    import torch

    torch.zeros(4, device="cuda")[torch.tensor([99], device="cuda")].cpu()


def _no_effect_check(pipelines: dict[str, Any]) -> str | None:
    return None


TECHNIQUES = tuple(
    Technique(
        name=function.__name__,
        axis=Axis.MEMORY,
        loss=Loss.BIT_IDENTICAL,
        summary="Goes wrong.",
        source="this test",
        parameters=NoParameters,
        apply=function,
        took_effect=_no_effect_check,
    )
    for function in (devour_gpu, hang_gpu, segfault_gpu, device_assert)
)
