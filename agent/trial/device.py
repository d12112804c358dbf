"""The device of this machine, found without importing torch or starting CUDA."""

import os
from importlib import metadata
from pathlib import Path

import psutil

from ...objectives.fingerprint import Fingerprint
from ...search_space import Target, is_installed, known_techniques
from ...studies import UserError


def detect_device(wanted: str = "auto") -> str:
    """ "cuda" when NVML sees a GPU, else "cpu". Raises UserError when a GPU is wanted and there is none."""
    has_gpu = _gpu_count() > 0
    if wanted == "cuda" and not has_gpu:
        raise UserError("the study wants device cuda and no GPU is visible here: --set device=cpu runs it on the CPU")
    if wanted == "auto":
        return "cuda" if has_gpu else "cpu"
    return wanted


def _gpu_count() -> int:
    import pynvml

    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1") or "+cpu" in (installed("torch") or ""):
        return 0  # there may be a GPU, but torch cannot use it
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def installed(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def target_of(fingerprint: Fingerprint) -> Target:
    """What techniques may know of the machine with this fingerprint."""
    capability = None
    if fingerprint.compute_capability is not None:
        major, minor = fingerprint.compute_capability.split(".")
        capability = (int(major), int(minor))
    wanted = {package for known in known_techniques() for package in known.all_packages()}
    return Target(
        device=fingerprint.device_kind,
        name=fingerprint.device_name,
        compute_capability=capability,
        memory_gib=fingerprint.memory_gib or round(psutil.virtual_memory().total / 1024**3, 1),
        packages=frozenset(package for package in wanted if is_installed(package)),
        cpu_has_bfloat16=_cpu_has_bfloat16(),
    )


def _cpu_has_bfloat16() -> bool:
    """Where oneDNN, which computes for torch, has kernels for it; without them a call takes ten times as long."""
    words = Path("/proc/cpuinfo").read_text().split()
    return {"avx512bw", "avx512dq", "avx512vl"} <= set(words) or not {"bf16", "avx_ne_convert"}.isdisjoint(words)
