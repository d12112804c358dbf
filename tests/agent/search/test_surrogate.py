"""The surrogate: it finds the best of a space in few proposals, whatever breaks or fails on the way."""

import math

import pytest
from paretune.agent.search.surrogate import Known, Surrogate
from paretune.search_space import Configuration, SearchSpace

SPACE = SearchSpace.of(
    {
        "fused_qkv": {},
        "channels_last": {},
        "vae_slicing": {},
        "vae_tiling": {"tile_px": ["default"]},
        "deepcache": {"interval": [2, 3, 5], "branch": [0, 1], "full_percent": [0, 50]},
        "guidance_cutoff": {"guided_percent": [60, 90]},
        "dtype": {"dtype": ["bfloat16"]},
    }
)
FACTORS = {"fused_qkv": 0.9, "channels_last": 0.85, "vae_slicing": 1.1, "vae_tiling": 1.3, "dtype": 0.6}


def measured(configuration: Configuration) -> Known:
    """A machine on which techniques multiply, coarse caches and cut-offs show, and tiling fails with slicing."""
    latency_ms, drift = 1000.0, 0.0
    for step in configuration.steps:
        latency_ms *= FACTORS.get(step.technique, 1.0)
        values = step.values()
        if step.technique == "deepcache":
            full = values["full_percent"] / 100
            latency_ms *= full + (1 - full) * (0.3 + 0.7 / values["interval"])
            drift += (1 - full) * (values["interval"] - 1) * (0.9 if values["branch"] == 0 else 0.7)
        if step.technique == "guidance_cutoff":
            latency_ms *= 0.5 + values["guided_percent"] / 200
            drift += (100 - values["guided_percent"]) / 20
        if step.technique == "dtype":
            drift += 0.4
    works = not (configuration.get("vae_slicing") is not None and configuration.get("vae_tiling") is not None)
    memory_gib = 8.0 - (3.0 if configuration.get("dtype") else 0.0)
    return Known(
        configuration=configuration,
        works=works,
        objectives=(latency_ms, memory_gib, drift) if works else (),
        picture_violation=drift - 2.0 if works else 0.0,
        seconds=10.0,
    )


def best_ms() -> float:
    acceptable = (measured(one) for one in SPACE.configurations())
    return min(one.objectives[0] for one in acceptable if one.works and one.keeps_limits)


def search(seed: int, trials: int) -> list[Known]:
    known: list[Known] = []
    surrogate = Surrogate(SPACE, lambda one: one not in [k.configuration for k in known], seed)
    for start in ({}, {"fused_qkv": {}}, {"guidance_cutoff": {"guided_percent": 60}}, {"vae_tiling": {}}):
        known.append(measured(Configuration.of(start)))
    while len(known) < trials:
        proposed = surrogate.propose(known)
        assert proposed is not None
        assert proposed in SPACE
        assert proposed not in [one.configuration for one in known], "nothing is proposed twice"
        known.append(measured(proposed))
    return known


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_what_is_best_in_forty_trials_of_many(seed: int) -> None:
    assert SPACE.size() > 1000
    known = search(seed, 40)
    found = min(one.objectives[0] for one in known if one.works and one.keeps_limits)
    assert found <= 1.05 * best_ms()


def test_it_learns_what_fails() -> None:
    known = search(0, 40)
    failures = [one for one in known if not one.works]
    assert len(failures) <= 6, "two techniques that fail together are not tried again and again"


def test_with_too_little_to_go_on_it_proposes_nothing() -> None:
    surrogate = Surrogate(SPACE, lambda one: True, 0)
    assert surrogate.propose([measured(Configuration())]) is None


def test_when_everything_near_is_known_it_proposes_nothing() -> None:
    small = SearchSpace.of({"fused_qkv": {}, "channels_last": {}})
    known = [measured(one) for one in small.configurations()]
    surrogate = Surrogate(small, lambda one: one not in [k.configuration for k in known], 0)
    assert surrogate.propose(known) is None


def test_it_weighs_what_a_trial_costs() -> None:
    """Two techniques of which nothing is known but their cost: the cheap one is tried first."""
    space = SearchSpace.of({"fused_qkv": {}, "channels_last": {}, "vae_slicing": {}, "vae_tiling": {}})
    slow = {"vae_slicing", "vae_tiling"}

    def known(*names: str) -> Known:
        return Known(
            configuration=Configuration.of({name: {} for name in names}),
            works=True,
            objectives=(1000.0 - len(names),),
            seconds=math.exp(5.0 if slow & set(names) else 1.0),
        )

    before = [known(), known("vae_slicing"), known("vae_tiling"), known("fused_qkv")]
    surrogate = Surrogate(space, lambda one: one not in [k.configuration for k in before], 0)
    proposed = surrogate.propose(before)
    assert proposed is not None
    assert not slow & {step.technique for step in proposed.steps}


FASTER = Configuration.of({"deepcache": {"interval": 2, "branch": 0, "full_percent": 0}, "channels_last": {}})
PLAIN, SLOWER = Configuration.of({"channels_last": {}}), Configuration.of({"vae_slicing": {}, "channels_last": {}})


def test_one_quick_recipe_is_enough_to_tell_which_one_comes_next() -> None:
    surrogate = Surrogate(SPACE, lambda one: True, 0)
    known = [measured(Configuration())]
    assert surrogate.first_of([PLAIN, FASTER], known) == PLAIN, "nothing is known of any: their own order"
    known.append(measured(Configuration.of({"deepcache": {"interval": 3, "branch": 0, "full_percent": 0}})))
    assert surrogate.first_of([PLAIN, FASTER], known) == FASTER


def test_what_makes_nothing_faster_comes_last_unless_it_is_needed() -> None:
    surrogate = Surrogate(SPACE, lambda one: True, 0)
    known = [measured(Configuration())]
    assert surrogate.first_of([SLOWER, PLAIN], known) == PLAIN
    assert surrogate.first_of([SLOWER], known) == SLOWER
    too_large = [Known(configuration=Configuration(), works=True, objectives=(1000.0, 30.0, 0.0), violation=0.5)]
    assert surrogate.first_of([SLOWER, PLAIN], too_large) == SLOWER


def test_what_a_compiler_would_keep_of_a_broken_limit_is_not_tried_again() -> None:
    """Pictures of a coarse cache are as bad when the layout or the kernels are others."""
    coarse = {"interval": 5, "branch": 0, "full_percent": 0}
    known = [measured(Configuration.of(one)) for one in ({}, {"fused_qkv": {}}, {"deepcache": coarse})]
    fine = {"deepcache": {"interval": 2, "branch": 1, "full_percent": 50}}
    known.append(measured(Configuration.of(fine)))
    surrogate = Surrogate(SPACE, lambda one: True, 0)
    broken = Configuration.of({"deepcache": coarse, "channels_last": {}, "fused_qkv": {}})
    kept = Configuration.of({**fine, "channels_last": {}})
    assert surrogate.first_of([broken, kept], known) == kept


@pytest.mark.parametrize("breaks", [False, True])
def test_where_rounding_breaks_the_limit_it_counts(breaks: bool) -> None:
    """Another layout breaks a limit that only the same bits keep: it is not tried with something else at once."""

    def known(latency_ms: float, *names: str) -> Known:
        broken = breaks and "channels_last" in names
        return Known(
            configuration=Configuration.of({name: {} for name in names}),
            works=True,
            objectives=(latency_ms,),
            picture_violation=0.4 if broken else -0.1,
        )

    before = [
        known(1000),
        known(850, "channels_last"),
        known(860, "channels_last", "vae_slicing"),
        known(900, "fused_qkv"),
        known(1010, "vae_slicing"),
        known(910, "fused_qkv", "vae_slicing"),
    ]
    surrogate = Surrogate(SPACE, lambda one: True, 0)
    layout = Configuration.of({"channels_last": {}, "fused_qkv": {}})
    other = Configuration.of({"fused_qkv": {}, "dtype": {"dtype": "bfloat16"}})
    assert surrogate.first_of([layout, other], before) == (other if breaks else layout)
