"""The README of a bundle, written for the person who deploys it."""

from pathlib import Path

import jinja2

from ...objectives.figures import FIGURE
from ...search_space import Loss, technique
from ..results import Trial, cold_start_words, evidence_words, floor_note


def bundle_readme(trial: Trial) -> str:
    """README.md; its figures are the ones that every report shows."""
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    results = trial.results
    compiled = results.torch_compile
    named = {"reference": results.reference, "torch.compile": compiled, "this bundle": trial}
    return environment.get_template("bundle_readme.md.j2").render(
        results=results,
        trial=trial,
        named={name: one for name, one in named.items() if one is not None and one.complete},
        compiled=compiled if compiled is not None and compiled.complete else None,
        steps=[(step, technique(step.technique)) for step in trial.configuration.steps],
        cold_start_words=cold_start_words,
        cold=trial.cold_start_measured,
        seconds=FIGURE["cold_start_s"].text,
        evidence=evidence_words(trial),
        floor_note=floor_note(results),
        doubts=trial.doubts(),
        approximate=trial.configuration.loss is Loss.APPROXIMATE,
        requests=results.study.workload.requests,
    )
