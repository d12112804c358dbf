"""The bundle that is served, the requests that wait for it, and what becomes of both."""

import asyncio
import hashlib
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from process import FailedError, GoneError, GpuProcess, Pictures, UnusableError
from prometheus_client import Counter, Gauge, Histogram, Info

log = logging.getLogger("uvicorn.error")  # uvicorn's own: one format, one place

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
on_gpu = Histogram("worker_gpu_seconds", "Of a request, without waiting and encoding", ["variant"], buckets=SECONDS)
waiting = Gauge("worker_queue_length", "Accepted requests that wait for the GPU")
ready = Gauge("worker_ready", "1 when requests are accepted")
changes = Counter("worker_bundle_changes", "Bundles that took over, or that could not", ["result"])
serving_bundle = Info("worker_bundle", "The bundle that is served")
OF_THE_PROCESS = {
    "memory_bytes": Gauge("worker_memory_bytes", "GPU memory that the GPU process holds; on a CPU, main memory"),
    "peak_bytes": Gauge("worker_memory_peak_bytes", "The most of it since the process began"),
    "misses": Gauge("worker_misses", "Calls that no compiled code of the bundle fitted, since the process began"),
    "compilations": Gauge("worker_compilations", "Graphs that the process compiled since it began"),
}


class UnansweredError(Exception):
    """An accepted request has no pictures; the text is one sentence, `code` the status to answer it with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Job:
    """An accepted request."""

    asked: dict[str, Any]
    """As gpu.py reads it: like, prompt, seed, negative_prompt."""
    client_left: Callable[[], Awaitable[bool]]
    made: "asyncio.Future[Pictures]"


@dataclass(frozen=True)
class Limits:
    """How much is waited for."""

    queue: int
    """Requests that may wait while one is served."""
    request_s: float
    """On the GPU."""
    load_s: float
    """Until a bundle is ready."""


class Worker:
    """One GPU. Everything here runs in the event loop; the work is done by a GPU process.

    link: the bundle's folder, or a link to it; gpu_options: what gpu.py is told beside it.
    """

    def __init__(self, link: Path, gpu_options: dict[str, Any], limits: Limits) -> None:
        self.gpu: GpuProcess | None = None
        """That serves; None while there is none."""
        self.stopping = False
        self.failed = False
        """Whether it ends because no bundle can be served."""
        self.phase = "starting"
        self.last_change = ""
        """Why the last change of the bundle failed; empty when it did not."""
        self.end: Callable[[], None] = lambda: None
        """Called when everything is answered after stop()."""
        self._link, self._gpu_options, self._limits = link, gpu_options, limits
        self._queue: asyncio.Queue[Job] = asyncio.Queue(limits.queue)
        self._usable = asyncio.Event()
        self._changing = asyncio.Lock()
        self._identity = ""
        self._recent_s: deque[float] = deque([1.0], maxlen=20)
        self._tasks: set[asyncio.Task[None]] = set()
        waiting.set_function(self._queue.qsize)

    def open(self) -> None:
        """Begin to load the bundle, and to serve."""
        self._begin(self._serve_all())
        self._begin(self.change())

    async def close(self) -> None:
        """End at once, however far it is."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.gpu is not None:
            await self.gpu.stop()

    def accept(self, job: Job) -> None:
        """Let a request wait for its turn. Raises UnansweredError when as many wait as may."""
        try:
            self._queue.put_nowait(job)
        except asyncio.QueueFull:
            raise UnansweredError(429, f"{self._queue.qsize()} requests wait already") from None

    def retry_after_s(self) -> int:
        """When one of those that wait will be gone."""
        return max(1, math.ceil(sum(self._recent_s) / len(self._recent_s)))

    def stop(self) -> None:
        """Accept no more requests, answer those that were accepted, and end."""
        if not self.stopping:
            log.info("Stopping; %d requests wait", self._queue.qsize())
            self.stopping = True
            ready.set(0)
            self._begin(self._end_when_answered())

    def change_soon(self) -> None:
        """change(), beside everything else."""
        self._begin(self.change())

    async def change(self) -> None:
        """Serve the bundle that the link leads to now, once it is warm. Until then, and if it fails, the old one."""
        async with self._changing:
            old = self.gpu
            try:
                folder, identity = identified(self._link)
                if old is not None and (old.bundle, self._identity) == (folder, identity):
                    log.info("%s is served already", folder)
                    return
                new = await self._started(folder)
            except UnusableError as error:
                changes.labels("failed").inc()
                self.last_change = f"{self._link} cannot be served: {error}"
                log.error("%s%s", self.last_change, "" if old is None else f"; {old.bundle} goes on")
                if old is None:
                    self._give_up()
                return
            changes.labels("done").inc()
            self.last_change, self._identity = "", identity
            self._use(new)
            log.info("%s is served", folder)
            if old is not None:
                await old.stop()  # after the request that it may be serving

    async def _serve_all(self) -> None:
        while True:
            job = await self._queue.get()
            try:
                await self._usable.wait()
                made = await self._serve(job)
            except UnansweredError as error:
                if not job.made.done():
                    job.made.set_exception(error)
            else:
                if not job.made.done():
                    job.made.set_result(made)
            finally:
                self._queue.task_done()

    async def _serve(self, job: Job) -> Pictures:
        gpu = self.gpu
        if gpu is None:
            raise UnansweredError(503, "the worker ends: its GPU process could not be started again")
        if await job.client_left():
            raise UnansweredError(499, "the client has left")
        try:
            made = await gpu.serve(job.asked, self._limits.request_s)
        except FailedError as error:
            raise UnansweredError(500, f"this picture could not be made: {error}") from None
        except GoneError as error:
            if gpu is self.gpu:
                self._use(None)  # _watch() sees to another one
            raise UnansweredError(500, f"this picture could not be made: {error}") from None
        finally:
            note(gpu)
        self._recent_s.append(made.seconds)
        on_gpu.labels(job.asked["like"]).observe(made.seconds)
        return made

    async def _started(self, folder: Path) -> GpuProcess:
        new = GpuProcess(folder, self._gpu_options)
        await new.start(self._is_at, self._limits.load_s)
        self._begin(self._watch(new))
        return new

    async def _watch(self, gpu: GpuProcess) -> None:
        """Start the process again when it ends by itself. What waits goes on waiting."""
        how = await gpu.ended()
        if self.gpu not in (gpu, None):
            return  # it was replaced
        log.error("The GPU process ended (%s); it is started again", how)
        self._use(None)
        async with self._changing:
            if self.gpu is not None:  # by a change meanwhile
                return
            try:
                self._use(await self._started(gpu.bundle))
            except UnusableError as error:
                log.error("%s cannot be served again: %s", gpu.bundle, error)
                self._give_up()

    def _use(self, gpu: GpuProcess | None) -> None:
        self.gpu = gpu
        ready.set(gpu is not None and not self.stopping)
        if gpu is None:
            self._usable.clear()
            return
        serving_bundle.info({"folder": str(gpu.bundle), "manifest_sha256": self._identity})
        note(gpu)
        self._usable.set()

    def _is_at(self, phase: str) -> None:
        self.phase = phase
        log.info("%s ...", phase)

    def _give_up(self) -> None:
        """End although nobody asked for it: whoever runs workers has to see that this one cannot."""
        self.failed = self.stopping = True
        self._usable.set()  # what waits is answered, though with no pictures
        self._begin(self._end_when_answered())

    async def _end_when_answered(self) -> None:
        await self._queue.join()
        self.end()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("The worker ends, because of a mistake in its own code", exc_info=error)
            self.failed = self.stopping = True
            self.end()


def identified(link: Path) -> tuple[Path, str]:
    """Where a bundle really lies, and its manifest's SHA-256, which stands for all of it. Raises UnusableError."""
    try:
        folder = link.resolve(strict=True)
        return folder, hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "its links lead in a circle"
        raise UnusableError(f"there is no bundle ({reason})") from None


def note(gpu: GpuProcess) -> None:
    """Take over into the metrics what the process last said of itself."""
    for name, gauge in OF_THE_PROCESS.items():
        gauge.set(gpu.state.get(name, 0))
