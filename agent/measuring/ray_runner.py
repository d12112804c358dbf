"""Runs jobs at the places of Ray: who gets which, what comes back, and what happens when a place is lost."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ...objectives.fingerprint import Fingerprint
from ...studies import Outcome, RunKind, Study, UserError, check_calls
from ..trial import Job, TrialResult, whole_folder, write_trial_folder
from .ray_cluster import Cluster, Place
from .ray_files import Outgoing, unpack
from .runner import INFRASTRUCTURE_TRIES

SERVE_S = 700.0
"""Until a place has imported torch and diffusers; the executor itself gives up after 600 s."""
CLOSE_S = 60.0
PING_S = 5.0
HANGS_S = 60.0
"""A place that has not answered for so long is taken for lost, and killed."""
HEAD_GONE_S = 25.0
"""Ray itself ends a process that cannot reach the head for a minute, without a word."""


@dataclass
class _Task:
    """A job on its way."""

    job: Job
    place: str | None
    future: "Future[TrialResult]" = field(default_factory=Future)
    failed: dict[str, str] = field(default_factory=dict)
    """{place: why it could not be run there}, of every try."""
    tries: int = 0


@dataclass
class _Busy:
    """What one place does."""

    place: Place
    task: _Task | None = None
    starting: bool = False
    heard: float = field(default_factory=time.monotonic)
    ping: Any = None


class RayRunner:
    """Ray runs the jobs: one at a time at each place, in a process of its own as on this machine."""

    def __init__(
        self,
        cluster: Cluster,
        study: Study,
        places: Sequence[Place] | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Start a fork server at every place. places: by default all of the cluster.

        note: told of a place that is lost. Raises UserError when one cannot start, and when places differ.
        """
        self.device = cluster.device
        self._cluster = cluster
        self._note = note
        self._workload = study.workload_description()
        self._classes = sorted({spec["class"] for spec in self._workload.get("pipelines", {}).values()})
        self._deadlines_s = study.deadlines_s.model_dump()
        self._memory_gib = study.host_memory_gib
        self._outgoing = Outgoing(_put)
        self._lock = threading.RLock()
        self._queue: list[_Task] = []
        here = cluster.alive(cluster.places if places is None else places)
        self._busy = {place.name: _Busy(place) for place in here}
        self._reviving: list[threading.Thread] = []
        self._hands = ThreadPoolExecutor(8, thread_name_prefix="ray results")
        self._closed = threading.Event()
        self._head_heard = time.monotonic()
        self.fingerprints = self._serve([one.place for one in self._busy.values()])
        self.fingerprint = next(iter(self.fingerprints.values()))
        self._watcher = threading.Thread(target=self._watch, name="ray places", daemon=True)
        self._watcher.start()

    def only(self, places: Sequence[str]) -> None:
        """Use these places alone."""
        with self._lock:
            self._busy = {name: one for name, one in self._busy.items() if name in places}
            self.fingerprint = self.fingerprints[places[0]]

    def refuse_unlike(self) -> None:
        """Raise UserError where places are not alike: their latencies could not be compared."""
        groups = by_device(self.fingerprints)
        if len(groups) > 1:
            first, *others = groups.values()
            differences = self.fingerprints[first[0]].differences(self.fingerprints[others[0][0]])
            raise UserError(
                f"{', '.join(name for group in others for name in group)} cannot take part in a study with "
                f"{', '.join(first)} ({'; '.join(differences[:3])}): add --by-device to make a study of each kind"
            )

    def places(self) -> Sequence[str]:
        """Those that are not lost."""
        with self._lock:
            return list(self._busy)

    def submit(self, kind: RunKind, job: Job, place: str | None = None) -> "Future[TrialResult]":
        """Queue it. What fails because of a place is tried at others, three times in all."""
        task = _Task(job, place)
        with self._lock:
            self._queue.append(task)
        self._dispatch()
        return task.future

    def import_s(self) -> float:
        """Timed at the first place."""
        return float(_get(self._first().actor.import_s.remote()))

    def cold_start(self, folder: Path, timeout_s: float) -> TrialResult:
        """At the first place, where finals run: the trial's folder is made anew there."""
        place = self._first()
        job = Job(
            folder=str(folder),
            device=self.device,
            configuration=yaml.safe_load((folder / "configuration.yaml").read_text()),
            apply_py=(folder / "apply.py").read_text(),
            workload=self._workload,
            plan={},
            reference_pictures=None,
            quality_assessed=False,
            technique_files=[],
            import_s=0.0,
        )
        try:
            found: TrialResult = _get(place.actor.cold_start.remote(job, *self._outgoing.of(job), timeout_s))
        except Exception as error:
            return TrialResult(outcome=Outcome.INFRASTRUCTURE, reason=_words(error), place=place.name)
        return replace(found, place=place.name)

    def with_compiled_code(
        self, folder: Path, packages: Sequence[str], timeout_s: float
    ) -> AbstractContextManager[Path | None]:
        """None: what is built at a place would have to be kept there. The estimate stands; export measures it."""
        return nullcontext()

    def close(self) -> None:
        """End whatever runs; the places stay, for another study."""
        if self._closed.is_set():
            return
        self._closed.set()
        for thread in self._reviving:
            thread.join(CLOSE_S)  # else the next study would start a second actor in that place
        self._hands.shutdown(wait=False, cancel_futures=True)

    def _first(self) -> Place:
        with self._lock:
            if not self._busy:
                raise self._gone()
            return next(iter(self._busy.values())).place

    def _serve(self, places: Sequence[Place]) -> dict[str, Fingerprint]:
        """Start the fork servers of places, all at once."""
        import ray

        asked = {place.name: place.actor.serve.remote(*self._settings(place)) for place in places}
        found = {}
        for name, reference in asked.items():
            try:
                fingerprint, interfaces = ray.get(reference, timeout=SERVE_S)
            except Exception as error:
                cause = getattr(error, "cause", error)
                said = str(cause) if isinstance(cause, UserError) else f"it could not be started: {_words(cause)}"
                raise UserError(f"{name}: {said}") from None
            check_calls(self._workload, interfaces)
            found[name] = Fingerprint.from_dict(fingerprint)
        return found

    def _settings(self, place: Place) -> tuple[str, list[str], Mapping[str, float], float | None]:
        return self.device, self._classes, self._deadlines_s, self._memory_gib

    def _dispatch(self) -> None:
        """Give what waits to places that are idle."""
        with self._lock:
            if not self._busy:
                self._fail_all(self._gone())
            for name, one in self._busy.items():
                if one.task is None and not one.starting and (task := self._next(name)) is not None:
                    self._queue.remove(task)
                    one.task = task
                    self._hands.submit(self._start, one, task)

    def _next(self, name: str) -> _Task | None:
        """The first that may run at a place: not where it has failed, as long as there are others."""
        for task in self._queue:
            if task.place is not None and task.place in self._busy:
                if task.place == name:
                    return task
            elif name not in task.failed or not self._busy.keys() - task.failed.keys():
                return task
        return None

    def _start(self, one: _Busy, task: _Task) -> None:
        try:
            folders, references = self._outgoing.of(task.job)
            reference = one.place.actor.run.remote(task.job, folders, references, one.place.name)
            reference.future().add_done_callback(
                lambda future: self._closed.is_set() or self._hands.submit(self._ended, one, task, future)
            )
        except Exception as error:
            self._settle(one, task, error, None)

    def _ended(self, one: _Busy, task: _Task, future: "Future[Any]") -> None:
        error = future.exception()
        self._settle(one, task, error, None if error is not None else future.result())

    def _settle(
        self, one: _Busy, task: _Task, error: BaseException | None, came: tuple[TrialResult, bytes | None] | None
    ) -> None:
        """A job has ended, one way or another: store its files, and let the place go on."""
        name = one.place.name
        try:
            if came is None:
                result = TrialResult(outcome=Outcome.INFRASTRUCTURE, reason=_words(error), place=name)
            else:
                result = replace(came[0], place=name)
                if came[1] is not None:
                    _keep(task.job, came[1])
        except Exception as fault:  # the disk of this machine, say: what it means is said elsewhere
            task.future.set_exception(fault)
            result = None
        with self._lock:
            one.task = None
            if error is not None and _lost(error):
                self._restart(one)
        if result is not None:
            self._answer(task, result)
        self._dispatch()

    def _answer(self, task: _Task, result: TrialResult) -> None:
        task.tries += 1
        if result.outcome is Outcome.INFRASTRUCTURE and not self._closed.is_set():
            task.failed[result.place] = result.reason
            if task.tries < INFRASTRUCTURE_TRIES:
                with self._lock:
                    self._queue.insert(0, task)
                return
            tried = "; ".join(f"{place}: {reason}" for place, reason in task.failed.items())
            result = replace(result, reason=tried)
        if not task.future.done():
            task.future.set_result(result)

    def _restart(self, one: _Busy) -> None:
        """A place whose actor is gone gets another one, meanwhile the others go on."""
        if one.starting or self._closed.is_set():
            return
        one.starting = True
        self._reviving.append(threading.Thread(target=self._revive, args=(one,), name="ray place", daemon=True))
        self._reviving[-1].start()

    def _revive(self, one: _Busy) -> None:
        import ray

        name = one.place.name
        with suppress(Exception):
            ray.kill(one.place.actor)  # it may have hung
        found = self._cluster.revive(one.place) if self._cluster.answers() else None
        same = False
        if found is not None:
            self._cluster.put(found)
            with suppress(UserError):
                same = self._serve([found])[name] == self.fingerprints[name]
            if not same:
                ray.kill(found.actor)
        with self._lock:
            if found is not None and same:
                self._busy[name] = _Busy(found)
            else:
                self._busy.pop(name, None)
        self._note(f"{name} was lost and " + ("is back" if same else "does not come back: the others go on without it"))
        self._dispatch()

    def _watch(self) -> None:
        """Find places that hang, and a head that is gone."""
        import ray

        while not self._closed.wait(PING_S):
            if self._cluster.answers():
                self._head_heard = time.monotonic()
            elif time.monotonic() - self._head_heard > HEAD_GONE_S:
                with self._lock:
                    self._fail_all(self._gone())
                    self._busy.clear()
                return
            with self._lock:
                places = [one for one in self._busy.values() if not one.starting]
            for one in places:
                if one.ping is not None and ray.wait([one.ping], timeout=0)[0]:
                    one.heard, one.ping = time.monotonic(), None
                if one.ping is None:
                    one.ping = one.place.actor.ping.remote()
                elif time.monotonic() - one.heard > HANGS_S:
                    ray.kill(one.place.actor)  # its job ends with an error, and is run elsewhere
                    if one.task is None:
                        with self._lock:
                            self._restart(one)

    def _gone(self) -> UserError:
        """Why nothing can be run any more."""
        if self._cluster.answers():
            return UserError(f"no place of Ray is left: {AGAIN}")
        return UserError(f"the head of the Ray cluster at {self._cluster.address} is gone: {AGAIN}")

    def _fail_all(self, error: UserError) -> None:
        running = [one.task for one in self._busy.values() if one.task is not None]
        for task in (*self._queue, *running):
            if not task.future.done():
                task.future.set_exception(error)
        self._queue.clear()


AGAIN = "what was measured is stored; launch again to continue"


def by_device(fingerprints: Mapping[str, Fingerprint]) -> dict[str, list[str]]:
    """{key of a fingerprint: its places}, the most first."""
    groups: dict[str, list[str]] = {}
    for name, fingerprint in fingerprints.items():
        groups.setdefault(fingerprint.key, []).append(name)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _keep(job: Job, archive: bytes) -> None:
    """Write a trial's folder on this machine, whole or not at all."""
    with whole_folder(Path(job.folder)) as folder:
        write_trial_folder(folder, job.configuration, job.workload, job.apply_py)
        unpack(archive, folder)


def _lost(error: BaseException) -> bool:
    """Whether the place itself is gone, and not only this job."""
    import ray

    return isinstance(error, ray.exceptions.RayActorError)


def _words(error: BaseException | None) -> str:
    """What Ray says, in one line."""
    error = getattr(error, "cause", None) or error  # what a job has raised, without Ray's own words around it
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _put(content: bytes) -> Any:
    import ray

    return ray.put(content)


def _get(reference: Any) -> Any:
    import ray

    return ray.get(reference)
