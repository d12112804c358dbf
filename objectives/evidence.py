"""What a configuration's verdict rests on. Imports neither torch nor numpy.

The unit is the prompt. When one picture of a prompt falls short, those with other seeds probably do too:
counted as independent trials, they would promise far more than they show.
"""

import math
from collections.abc import Sequence

from .verdict import Verdict


def failure_rate_bound(n: int, failures: int = 0, confidence: float = 0.95) -> float:
    """The highest failure rate that `failures` of `n` trials leave possible, with this confidence.

    Exact one-sided bound of Clopper & Pearson 1934, doi:10.1093/biomet/26.4.404: the rate at which so few failures
    would be a case of one in 20 (for 95 %). Needs trials that fail independently of each other: prompts. Raises
    ValueError unless 0 <= failures <= n, n >= 1, 0 < confidence < 1.
    """
    if n < 1 or not 0 <= failures <= n or not 0 < confidence < 1:
        raise ValueError(f"{failures} failures of {n} at confidence {confidence} have no failure rate")
    if failures == n:
        return 1.0
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        rate = (low + high) / 2
        logs = (
            math.log(math.comb(n, k)) + k * math.log(rate) + (n - k) * math.log1p(-rate) for k in range(failures + 1)
        )
        low, high = (rate, high) if sum(map(math.exp, logs)) > 1 - confidence else (low, rate)
    return high


def prompts_reaching(verdicts: Sequence[Verdict], verdict: Verdict, prompts: Sequence[str]) -> tuple[int, int]:
    """How many prompts reach `verdict` with every one of their pictures, and how many prompts there are.

    `prompts` says which prompt each picture is of. Pictures of one prompt with other seeds fail together, so they are
    no independent trials: the worst one stands for the prompt. Raises ValueError unless there is a prompt per picture.
    """
    if len(prompts) != len(verdicts):
        raise ValueError(f"{len(verdicts)} pictures need a prompt each, not {len(prompts)}")
    short = {prompt for prompt, one in zip(prompts, verdicts, strict=True) if not one.at_least(verdict)}
    n = len(set(prompts))
    return n - len(short), n


def evidence_words(verdicts: Sequence[Verdict], verdict: Verdict, prompts: Sequence[str]) -> str:
    """What a configuration's verdict rests on, from its pictures' verdicts and which prompt each is of.

    "64 of 64 pictures, 6 of 6 prompts: failure rate of prompts below 39.3 % at 95 % confidence": the pictures that
    reach it, the prompts that do with all of their pictures, and how many of all prompts may not. Of a verdict that
    promises nothing (different, broken, not assessed) only how many pictures have it: "1 of 64 broken". Raises
    ValueError for no pictures, or when there is not a prompt for each.
    """
    if not verdicts:
        raise ValueError("no pictures to judge a configuration by")
    n = len(verdicts)
    if not verdict.at_least(Verdict.VISIBLE):
        return f"{sum(one is verdict for one in verdicts)} of {n} {verdict.value}"
    reached = sum(one.at_least(verdict) for one in verdicts)
    prompts_reached, n_prompts = prompts_reaching(verdicts, verdict, prompts)
    bound = failure_rate_bound(n_prompts, n_prompts - prompts_reached)
    return (
        f"{reached} of {n} pictures, {prompts_reached} of {n_prompts} prompts: failure rate of prompts below "
        f"{100 * bound:.1f} % at 95 % confidence"
    )
