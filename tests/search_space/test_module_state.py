"""Whatever recorded or built code would not follow is seen at the next look, and nothing else is."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from paretune.search_space._module_state import module_state
from paretune.search_space._structure import watched_structure


class Layer(torch.nn.Module):
    """Weights of every kind: of many numbers, of one, of none; absent ones; buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4, bias=False)
        self.gain = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("table", torch.zeros(3))
        self.register_buffer("empty", torch.zeros(0))
        self.processor: Any = object()


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(), Layer()])


def again(tensor: torch.Tensor) -> torch.nn.Parameter:
    """Another weight of the same numbers."""
    return torch.nn.Parameter(tensor.detach().clone())


def put(layer: Any, name: str, value: Any) -> None:
    """Past every hook that a module could have."""
    (layer._parameters if name in layer._parameters else layer._buffers)[name] = value


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a weight": lambda layer: setattr(layer.linear, "weight", again(layer.linear.weight)),
    "a weight, quietly": lambda layer: put(layer.linear, "weight", again(layer.linear.weight)),
    "a weight of another shape": lambda layer: put(layer.linear, "weight", again(torch.ones(2, 2))),
    "a weight of one number": lambda layer: put(layer, "gain", again(layer.gain)),
    "one number for many": lambda layer: put(layer.linear, "weight", again(torch.ones(1))),
    "a bias that was not there": lambda layer: setattr(layer.linear, "bias", again(torch.zeros(4))),
    "a weight that is gone": lambda layer: put(layer.linear, "weight", None),
    "a weight more": lambda layer: layer.linear.register_parameter("scale", again(torch.ones(4))),
    "a buffer": lambda layer: put(layer, "table", layer.table.clone()),
    "a buffer of one number": lambda layer: put(layer, "shift", layer.shift.clone()),
    "a buffer of none": lambda layer: put(layer, "empty", torch.zeros(1)),
    "memory": lambda layer: setattr(layer.linear.weight, "data", layer.linear.weight.data.clone()),
    "memory of one number": lambda layer: setattr(layer.gain, "data", layer.gain.data.clone()),
    "a number format": lambda layer: layer.half(),
    "a state dict": lambda layer: layer.load_state_dict(Layer().state_dict(), assign=True),
    "a layer": lambda layer: setattr(layer, "linear", torch.nn.Linear(4, 4, bias=False)),
    "a layer more": lambda layer: layer.add_module("more", torch.nn.SiLU()),
    "a hook": lambda layer: layer.linear.register_forward_hook(lambda *_: None),
    "a hook before": lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    "a processor": lambda layer: setattr(layer, "processor", object()),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_seen_once_and_then_is_how_it_is(change: Callable[[Any], Any]) -> None:
    model = Model()
    look = module_state(model)
    before = look()
    assert look() is before
    change(model.layers[1])
    after = look()
    assert after != before
    assert look() is after
    change(model.layers[0])
    assert look() not in (before, after), "the next one is seen as well"


def test_a_hook_that_is_taken_away_leaves_what_was_before() -> None:
    model = Model()
    look = module_state(model)
    before = look()
    hook = model.layers[0].linear.register_forward_hook(lambda *_: None)
    assert look() != before
    second = model.layers[1].linear.register_forward_hook(lambda *_: None)
    second.remove()
    hook.remove()
    assert look() == before


def test_a_hook_in_the_place_of_another_is_seen() -> None:
    model = Model()
    hook = model.layers[0].linear.register_forward_hook(lambda *_: None)
    look = module_state(model)
    before = look()
    hook.remove()
    model.layers[0].linear.register_forward_hook(lambda *_: None)
    assert look() != before


class Doubled(torch.nn.Linear):
    """What a layer becomes when somebody gives it another class."""


SETTINGS: dict[str, Callable[[Any], Any]] = {
    "in a dictionary": lambda layer: layer.options.update(strength=2.0),
    "in a list in a dictionary": lambda layer: layer.options["scales"].append(0.5),
    "in a list": lambda layer: layer.sizes.__setitem__(0, 5),
    "in a processor's dictionary": lambda layer: layer.processor.options.update(strength=2.0),
    "the class of a layer": lambda layer: setattr(layer.linear, "__class__", Doubled),
}


@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS.keys())
def test_what_is_changed_inside_of_a_setting_is_seen(change: Callable[[Any], Any]) -> None:
    model = Model()
    for layer in model.layers:
        layer.options, layer.sizes = {"strength": 1.0, "scales": [1.0]}, [4, 4]
        layer.processor = SimpleNamespace(options={"strength": 1.0})
    look = watched_structure(model)
    before = look()
    assert look() == before
    change(model.layers[1])
    assert look()[0] != before[0]
    assert look()[0] == watched_structure(model)()[0]


def test_numbers_that_are_written_in_place_are_no_change() -> None:
    model = Model()
    look = module_state(model)
    before = look()
    with torch.no_grad():
        model.layers[0].linear.weight.mul_(3)
        model.layers[0].gain.data.fill_(2)
        model.layers[1].table.add_(1)
    assert look() is before


def test_a_tensor_of_one_number_that_is_an_attribute_is_taken_as_it_is_now() -> None:
    model = Model()
    model.layers[0].delta = torch.ones(1)
    look = watched_structure(model)
    look()
    model.layers[0].delta = torch.ones(1)  # equal, and another one
    _, weights, _ = look()
    assert weights["layers.0.delta"] is model.layers[0].delta
    assert look()[1] is weights
