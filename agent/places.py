"""Where a launch runs: on this machine as ever, or at the places of Ray; a study each for places that differ."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from ..studies import Study, UserError
from .measuring import Cluster, RayRunner, Runner, by_device


@contextmanager
def studies_at_places(
    study: Study, *, workers: int | None, address: str | None, each_device: bool, note: Callable[[str], None]
) -> Iterator[list[tuple[Study, Runner | None]]]:
    """The studies to launch, each with the runner of its places; None for this machine, where Ray is not asked for.

    each_device: a study for each kind of places. note: told of places that are lost. Raises UserError.
    """
    if workers is None and address is None:
        if each_device:
            raise UserError("--by-device tells the places of a cluster apart: say which with --ray")
        yield [(study, None)]
        return
    with Cluster(address=address, workers=workers, device=study.device) as cluster:
        first = RayRunner(cluster, study, note=note)
        if not each_device:
            first.refuse_unlike()
            with closing(first):
                yield [(study, first)]
            return
        groups = [(first.fingerprints[names[0]], names) for names in by_device(first.fingerprints).values()]
        first.close()
        found: list[tuple[Study, Runner | None]] = []
        names_used: dict[str, int] = {}
        for fingerprint, names in groups:
            name = f"{study.name}-{_slug(fingerprint.device_name)}"
            names_used[name] = names_used.get(name, 0) + 1
            if names_used[name] > 1:  # another driver, say, of the same device
                name = f"{name}-{fingerprint.key[:6]}"
            places = [place for place in cluster.places if place.name in names]
            own = study.model_copy(update={"name": name})
            found.append((own, RayRunner(cluster, own, places, note)))
        try:
            yield found
        finally:
            for _, runner in found:
                if runner is not None:
                    runner.close()


def _slug(device: str) -> str:
    """A device's name as part of a study's."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")[:40]
