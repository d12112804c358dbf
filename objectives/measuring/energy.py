"""Energy of a call, and what pictures cost."""

import math
from types import TracebackType
from typing import Any


class EnergyMeter:
    """Context manager: the energy in J that the whole GPU took during a block, in `joules` after it.

    `handle` is NVML's handle of the GPU (memory.nvml_handle). `joules` is None without one (on the CPU), and where the
    GPU has no energy counter (before Volta, MIG slices). The counter is the GPU's, not this process's: other programs
    and the idle power are in it. It moves in steps of tens of ms: sum over calls rather than trust a short one. Work
    still queued on leaving the block is missed: synchronise inside it.
    """

    def __init__(self, handle: Any | None) -> None:
        self._handle = handle
        self.joules: float | None = None

    def __enter__(self) -> "EnergyMeter":
        self.joules = None
        self._before_mj = _counter_mj(self._handle)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        after_mj = _counter_mj(self._handle)
        if self._before_mj is not None and after_mj is not None and after_mj >= self._before_mj:
            self.joules = (after_mj - self._before_mj) / 1e3  # a driver that was reloaded counts from 0 again


def cost_per_1000_images(seconds_per_image: float, price_per_gpu_hour: float) -> float:
    """What 1000 pictures cost, in the price's currency, on a GPU that is busy all the time.

    Raises ValueError when a value is negative or not finite.
    """
    if not all(math.isfinite(value) and value >= 0 for value in (seconds_per_image, price_per_gpu_hour)):
        raise ValueError("seconds per picture and price must be finite and not negative")
    return 1000 * seconds_per_image / 3600 * price_per_gpu_hour


def _counter_mj(handle: Any | None) -> int | None:
    """NVML's nvmlDeviceGetTotalEnergyConsumption: mJ since the driver was loaded."""
    if handle is None:
        return None
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except pynvml.NVMLError:
        return None
