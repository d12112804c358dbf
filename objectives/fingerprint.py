"""The fingerprint: the hardware and software that a measurement or an artefact is bound to."""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from .measuring.memory import BYTES_PER_GIB, device_index, nvml_handle

SCHEMA_VERSION = 1

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "triton", "torchao", "optuna", "numpy")
"""Distributions whose version can change a latency, a picture or a compiled artefact."""

OPTIONAL_PACKAGES = ("stable-fast", "torch-tensorrt", "flash-attn", "flash-attn-3", "sageattention", "xformers")
"""The same, of which most machines have none: named only where they are installed."""

_WORDS = {
    "schema_version": "fingerprint schema",
    "device_kind": "device kind",
    "device_name": "device",
    "compute_capability": "compute capability",
    "memory_gib": "device memory (GiB)",
    "driver": "driver",
    "cuda": "CUDA",
    "python": "Python",
    "platform": "platform",
    "cpu_model": "CPU",
    "cpu_threads": "CPU threads",
}


@dataclass(frozen=True)
class Fingerprint:
    """One machine's relevant facts. GPU fields are None on the CPU; an absent package has version None."""

    schema_version: int
    device_kind: str  # "cuda" or "cpu"
    device_name: str
    compute_capability: str | None  # "9.0"
    memory_gib: float | None  # the device's, rounded to 0.1: drivers reserve a few MiB more or less
    driver: str | None
    cuda: str | None  # what torch was built for; None in a CPU build
    python: str
    platform: str
    cpu_model: str
    cpu_threads: int  # torch's intra-op threads: on the CPU they change both the latency and the order of sums
    packages: Mapping[str, str | None]

    @classmethod
    def current(cls, device: str) -> "Fingerprint":
        """The fingerprint of this process and `device` ("cpu", "cuda", "cuda:1").

        Imports torch but asks NVML about the GPU, so no CUDA context is created and the process may still fork.

        Raises ValueError for another kind of device, and RuntimeError when NVML cannot describe a CUDA device.
        """
        import torch

        kind = device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"device {device!r} is not supported: use 'cpu' or 'cuda[:index]'")
        cpu_model = _cpu_model()
        gpu = _gpu_facts(device) if kind == "cuda" else None
        return cls(
            schema_version=SCHEMA_VERSION,
            device_kind=kind,
            device_name=gpu.name if gpu else cpu_model,
            compute_capability=gpu.compute_capability if gpu else None,
            memory_gib=gpu.memory_gib if gpu else None,
            driver=gpu.driver if gpu else None,
            cuda=torch.version.cuda,
            python=platform.python_version(),
            # Without the kernel's release: a fleet updates it often, and no figure was seen to depend on it.
            platform=f"{platform.system()}-{platform.machine()}",
            cpu_model=cpu_model,
            cpu_threads=torch.get_num_threads(),
            packages={
                **{name: _version(name) for name in PACKAGES},
                **{name: version for name in OPTIONAL_PACKAGES if (version := _version(name)) is not None},
            },
        )

    @property
    def key(self) -> str:
        """SHA-256, in hex, of the canonical JSON: equal keys mean comparable measurements."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able values under the names of the fields."""
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "packages": dict(self.packages)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Fingerprint":
        """The inverse of `to_dict`. Raises ValueError for another schema version, unknown or missing fields."""
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"fingerprint schema {version!r} cannot be read: this version reads {SCHEMA_VERSION}")
        names = {f.name for f in dataclasses.fields(cls)}
        if set(values) != names:
            raise ValueError(f"fingerprint with missing or unknown fields: {sorted(set(values) ^ names)}")
        return cls(**{**values, "packages": dict(values["packages"])})

    def differences(self, other: "Fingerprint") -> list[str]:
        """Readable sentences, one per difference; empty when the two are the same."""
        sentences = [
            f"{words}: {_show(getattr(self, name))} here, {_show(getattr(other, name))} there"
            for name, words in _WORDS.items()
            if getattr(self, name) != getattr(other, name)
        ]
        for package in sorted(set(self.packages) | set(other.packages)):
            here, there = self.packages.get(package), other.packages.get(package)
            if here != there:
                sentences.append(f"{package}: {_show(here)} here, {_show(there)} there")
        return sentences


@dataclass(frozen=True)
class _GpuFacts:
    name: str
    compute_capability: str
    memory_gib: float
    driver: str


def _gpu_facts(device: str) -> _GpuFacts:
    try:
        import pynvml

        handle = nvml_handle(device_index(device))
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return _GpuFacts(
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            compute_capability=f"{major}.{minor}",
            memory_gib=round(pynvml.nvmlDeviceGetMemoryInfo(handle).total / BYTES_PER_GIB, 1),
            driver=_text(pynvml.nvmlSystemGetDriverVersion()),
        )
    except Exception as error:
        raise RuntimeError(f"NVML cannot describe {device}: {error}") from error


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # older bindings answer in bytes


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            for line in cpuinfo:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _show(value: object) -> str:
    return "none" if value is None else str(value)
