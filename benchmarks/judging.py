"""Time the judging of one picture: python benchmarks/judging.py [--save now.json] [--before then.json]

Prints a Markdown table of CPU seconds, user and system of all threads, the best of a few rounds: of every metric and
detector alone, and of everything a picture costs after it was made (saved as PNG, reference read, judged). Metrics
that share their work cost less together than the sum of them alone.

With --before, the ratio to the seconds that an earlier version saved: this file runs on any version of paretune that
PYTHONPATH names. Ratios are of use on a busy machine only when both runs were made under the same load.
"""

import argparse
import datetime
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from paretune.objectives.detectors import DETECTORS
from paretune.objectives.drift import METRICS
from paretune.objectives.fingerprint import Fingerprint
from paretune.objectives.images import from_uint8, to_uint8
from paretune.objectives.pictures import judge_pictures, load_png, save_png
from torch import Tensor

WHOLE = "all of one picture"


def cpu_s(work: Callable[[], object], rounds: int) -> float:
    """CPU seconds of this process for one call, the least of several: what the load of the machine adds least to."""
    work()
    seconds = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_SELF)
        work()
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def texture(side_px: int) -> Tensor:
    """(1, 3, side, side) in [0, 1]: detail at every scale, as a photograph has."""
    generator = torch.Generator().manual_seed(0)
    picture, octave, weight = torch.full((1, 3, side_px, side_px), 0.5), 4, 0.35
    while octave <= side_px:
        noise = torch.rand(1, 3, octave, octave, generator=generator) - 0.5
        picture += weight * torch.nn.functional.interpolate(noise, size=side_px, mode="bicubic")
        octave, weight = 2 * octave, 0.65 * weight
    return from_uint8(to_uint8(picture))


def works(reference: Tensor, candidate: Tensor, folder: Path) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    save_png(reference[0], folder / "reference.png")

    def whole() -> None:
        save_png(candidate[0], folder / "candidate.png")
        judge_pictures(load_png(folder / "reference.png")[None], candidate)

    parts: dict[str, Callable[[], object]] = {WHOLE: whole}
    parts["- saved as PNG"] = lambda: save_png(candidate[0], folder / "candidate.png")
    parts["- reference read"] = lambda: load_png(folder / "reference.png")
    parts["- judged"] = lambda: judge_pictures(reference, candidate)
    for measure in (*METRICS, *DETECTORS):
        parts[measure.name] = lambda measure=measure: measure(reference, candidate)  # type: ignore[misc]
    return parts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--side", type=int, default=1024, help="pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, help="file for the seconds")
    parser.add_argument("--before", type=Path, help="file that --save wrote")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reference = texture(options.side)
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(1)) * 3 / 255
    candidate = from_uint8(to_uint8(reference + noise))
    with tempfile.TemporaryDirectory() as folder:
        seconds = {}
        for name, work in works(reference, candidate, Path(folder)).items():
            print(name, file=sys.stderr, flush=True)
            seconds[name] = cpu_s(work, options.rounds)
    before = json.loads(options.before.read_text()) if options.before else {}
    machine = Fingerprint.current("cpu")
    print(f"{machine.device_name}, {options.threads} threads, Python {machine.python}, ", end="")
    print(f"torch {machine.packages['torch']}; {datetime.date.today()}; {options.side} px; ", end="")
    print(f"CPU seconds, the least of {options.rounds} rounds.\n")
    print("| what | before | now | ratio |\n| --- | --- | --- | --- |" if before else "| what | now |\n| --- | --- |")
    for name, value in seconds.items():
        then = before.get(name)
        known = "" if then is None else f"{then:.3f}"
        ratio = "" if then is None else f"{then / value:.1f}"
        print(f"| {name} | {known} | {value:.3f} | {ratio} |" if before else f"| {name} | {value:.3f} |")
    if options.save:
        options.save.write_text(json.dumps(seconds, indent=1))


if __name__ == "__main__":
    main()
