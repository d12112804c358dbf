"""A machine that does not exist, with names that would do harm if they were not escaped."""

from typing import Any

from paretune.objectives.fingerprint import PACKAGES


def fingerprint(device: str) -> dict[str, Any]:
    """objectives.fingerprint.Fingerprint of it, as plain data; device: "cuda" or "cpu"."""
    gpu = {"compute_capability": "9.0", "memory_gib": 79.6, "driver": "580.1", "cuda": "13.0"}
    return {
        "schema_version": 1,
        "device_kind": device,
        "device_name": "Example <GPU> 9000" if device == "cuda" else "Example <CPU> 9000",
        **(gpu if device == "cuda" else dict.fromkeys(gpu)),
        "python": "3.11.9",
        "platform": "Linux-x86_64",
        "cpu_model": "Example <CPU> 9000",
        "cpu_threads": 4,
        "packages": {**dict.fromkeys(PACKAGES), "torch": "2.13.0"},
    }
