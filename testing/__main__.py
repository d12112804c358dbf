"""Check every technique (TECHNIQUES) and every metric (METRICS) of the files that a study names."""

import argparse
import functools
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ..objectives.drift import Metric, load_metrics
from ..search_space import Technique, load_techniques
from .metric_contract import check_metric
from .technique_contract import check_technique


def main() -> int:
    """Print one line for each; 0 when all keep their promises, 1 when one does not."""
    parser = argparse.ArgumentParser(prog="python -m paretune.testing", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.py")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where techniques are tried")
    options = parser.parse_args()
    torch.set_num_threads(1)  # on work this small, more of them only wait for each other
    all_kept = True
    for file in options.files:
        for name, check in _checks(file, options.device):
            try:
                print(f"ok    {name}: {check()}", flush=True)
            except Exception as error:  # a technique or a metric may raise anything: that is a promise not kept
                all_kept = False
                text = str(error) if isinstance(error, AssertionError) else f"{name}: {type(error).__name__}: {error}"
                print(f"FAIL  {' '.join(text.split())}", flush=True)
    return 0 if all_kept else 1


def _checks(file: Path, device: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """(name, what to call to check it) of everything in the file; of the file itself where it cannot be used."""
    try:
        defined = runpy.run_path(str(file))
        if not {"TECHNIQUES", "METRICS"} & defined.keys():
            raise ValueError("it defines neither TECHNIQUES nor METRICS")
        techniques = load_techniques(file) if "TECHNIQUES" in defined else ()
        metrics = load_metrics(file) if "METRICS" in defined else ()
    except Exception as error:
        yield str(file), functools.partial(_fail, error)
        return
    for known in techniques:
        yield known.name, functools.partial(_technique_words, known, device)
    for metric in metrics:
        yield metric.name, functools.partial(_metric_words, metric)


def _technique_words(known: Technique, device: str) -> str:
    applied = check_technique(known, device=device)
    if not applied:
        return f"looked at, not applied: it refuses the tiny pipeline on this {device}"
    return f"applied with {applied} combination{'s' if applied > 1 else ''} of parameters"


def _metric_words(metric: Metric) -> str:
    check_metric(metric)
    return "keeps what a metric promises"


def _fail(error: Exception) -> str:
    raise error


if __name__ == "__main__":
    sys.exit(main())
