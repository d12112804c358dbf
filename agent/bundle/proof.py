"""Verify that a bundle starts ready: in a fresh process with empty caches nothing is compiled, at no request."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from ...objectives.measuring.building import PORTABLE
from ...objectives.measuring.compilations import CAPTURED, COMPILING, GRAPHS
from ...studies import UserError
from ..trial import empty_caches, run_script
from .cold_starts import measure_cold_starts
from .contents import Content
from .reading import Bundle, open_bundle
from .trust import ARTEFACTS
from .verify import TIMEOUT_S, Check, Verification, compare_machine, compare_pictures, files_check, find_models

Count = Annotated[int, Field(ge=0)]
Counts = dict[str, Count]
EXPORT_WITH = "export it with artefacts on a machine like this one"


class Counted(Content):
    """What check/run.py --twice found; see objectives/measuring/twice.py."""

    loading: Counts
    rounds: Annotated[list[dict[str, Counts]], Field(min_length=2, max_length=2)]
    missed: Counts

    @property
    def captures(self) -> int:
        """CUDA graphs that were captured until every request had been served once."""
        return sum(counts.get(CAPTURED, 0) for counts in (self.loading, *self.rounds[0].values()))


def prove(
    folder: Path,
    *,
    models: Mapping[str, Path] | None = None,
    trusted_key: Path | None = None,
    starts: int = 0,
    on_step: Callable[[str], None] = lambda text: None,
) -> Verification:
    """Load a bundle in a fresh process with empty caches, and serve every request twice.

    It passes when nothing is compiled or tuned (what torch's portable cache keeps is traced, and found there), CUDA
    graphs are captured as its evidence announces and none in the second round, no call misses the artefacts, and the
    pictures are those of the evidence.

    starts: so many cold starts are measured too, with its artefacts and without them.
    Raises UserError as `verify` does.
    """
    on_step("checking the files")
    with tempfile.TemporaryDirectory(prefix="paretune-cold-") as scratch:
        bundle = open_bundle(folder, Path(scratch) / "bundle", trusted_key)
        find_models(bundle, folder, models or {})
        on_step("serving every request twice in a fresh process with empty caches")
        out = Path(scratch) / "out"
        counted = count_twice(bundle.folder / "check" / "run.py", bundle.manifest.fingerprint.device_kind, out, folder)
        on_step("comparing with the evidence")
        shown = [picture for picture in bundle.pictures if picture.stem.rpartition("-")[0] in counted.rounds[0]]
        cold = list(_cold_starts(bundle, starts, on_step)) if starts else []
        return Verification(
            (
                files_check(bundle, folder, trusted_key),
                compare_machine(bundle.manifest.machine()),
                *judge_counts(counted, bundle.announced_captures, bundle.kept_way),
                compare_pictures(bundle, out / "pictures.npz", folder, shown),
                *cold,
            )
        )


def _cold_starts(bundle: Bundle, starts: int, on_step: Callable[[str], None]) -> Iterator[Check]:
    """Not compared with anything: how long workers take, to be read."""
    device = bundle.manifest.fingerprint.device_kind
    with_artefacts = (bundle.folder / ARTEFACTS).is_dir()
    found = measure_cold_starts(bundle.folder, device, starts, artefacts=True, on_step=on_step)
    yield Check("cold start", True, found.words())
    if with_artefacts:
        without = measure_cold_starts(bundle.folder, device, starts, artefacts=False, on_step=on_step)
        times = without.medians["cold_start_s"] / found.medians["cold_start_s"]
        yield Check("cold start without artefacts", True, f"{without.words()}, {times:.1f} times as long")


def count_twice(script: Path, device: str, out: Path, folder: Path) -> Counted:
    """What a run.py counts in a fresh process with empty caches; `folder` is what it is called in a sentence.

    Raises UserError when it cannot be run.
    """
    try:
        with empty_caches() as caches:
            environment = {**caches, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
            arguments = ["--device", device, "--twice"]
            found = run_script(script, arguments, out=out, environment=environment, timeout_s=TIMEOUT_S)
        return Counted.model_validate(found)
    except TimeoutError:
        raise UserError(f"{folder} did not serve its requests twice within {TIMEOUT_S} s") from None
    except RuntimeError as error:
        raise UserError(f"{folder} could not be run: {error}") from None
    except ValidationError:
        raise UserError(f"{folder} could not be run: what it counted cannot be read") from None


def judge_counts(counted: Counted, announced_captures: int | None, way: str | None) -> tuple[Check, ...]:
    """What a process may have counted: no compilation, and the announced captures; each request at fault is named.

    way: in which the bundle keeps compiled code; None where it has none. With torch's portable cache each graph is
    traced once more, and then found in the cache: that is no compilation, and is said.
    """
    kinds = tuple(kind for kind in COMPILING if way != PORTABLE or kind != GRAPHS)
    first, second = counted.rounds
    steps = {"while loading": counted.loading}
    steps |= {f"request {name}": counts for name, counts in first.items()}
    steps |= {f"request {name} in the second round": counts for name, counts in second.items()}
    compiled = [
        f"{where}: {', '.join(f'{counts[kind]} {kind}' for kind in kinds if counts.get(kind))}"
        for where, counts in steps.items()
        if any(counts.get(kind) for kind in kinds)
    ]
    advice = "" if way is not None else f"; it holds no compiled code: {EXPORT_WITH}"
    nothing = f"nothing while loading, and nothing at {len(first)} requests, each served twice"
    if way == PORTABLE:
        traced = sum(counts.get(GRAPHS, 0) for counts in steps.values())
        nothing += f"; {traced} graphs were traced, and found in torch's portable cache: that takes time, too"
    missed = [f"request {name}: {count}" for name, count in counted.missed.items()]
    return (
        Check("compiled", not compiled, "; ".join(compiled) + advice if compiled else nothing),
        _captures(counted, announced_captures),
        Check(
            "artefacts",
            not missed,
            f"calls that fit none of them: {'; '.join(missed)}; {EXPORT_WITH}"
            if missed
            else ("it has none, and needs none" if way is None else "every call fits one"),
        ),
    )


def _captures(counted: Counted, announced: int | None) -> Check:
    first = counted.captures
    again = [
        f"request {name}: {counts[CAPTURED]}" for name, counts in counted.rounds[1].items() if counts.get(CAPTURED)
    ]
    if again:
        return Check(CAPTURED, False, f"captured again in the second round: {'; '.join(again)}")
    if announced is None:
        return Check(CAPTURED, True, f"{first}, none in the second round (the evidence announces no number)")
    return Check(CAPTURED, first == announced, f"{first}, {announced} announced, none in the second round")
