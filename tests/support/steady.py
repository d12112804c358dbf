"""Real processes whose times are replaced by steady ones: what happens does not depend on how busy the machine is."""

from concurrent.futures import Future
from typing import Any

from paretune.agent.measuring import LocalRunner
from paretune.agent.trial import Job, TrialResult, detect_device
from paretune.studies import RunKind, Study


class SteadyRunner(LocalRunner):
    """As on a machine where every call of a configuration takes equally long: the unchanged pipelines a third of a
    second for every request, everything else a quarter.
    """

    def __init__(self, study: Study) -> None:
        """study: the one that it will run."""
        deadlines_s = study.deadlines_s.model_dump()
        super().__init__(detect_device(study.device), study.workload_description(), deadlines_s, study.host_memory_gib)

    def submit(self, kind: RunKind, job: Job) -> "Future[TrialResult]":
        """Run it, and replace what it timed."""
        future = super().submit(kind, job)
        measurements: dict[str, Any] = future.result().measurements
        latency_ms = 250.0 if job.configuration["techniques"] else 333.0
        if "latency_ms" in measurements:
            measurements["latency_ms"] = latency_ms
        for shape in measurements.get("latency", []):
            shape.update(dict.fromkeys(("median_ms", "p95_ms", "min_ms", "max_ms"), latency_ms))
            shape.update({"samples_ms": [latency_ms] * shape["n"], "interval": 0.0, "iqr_ms": 0.0, "relative_iqr": 0.0})
        return future
