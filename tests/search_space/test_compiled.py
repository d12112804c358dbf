"""What `compiled` puts around torch.compile."""

from typing import Any

import pytest
import torch
from paretune.search_space._compiled import compiled
from transformers.modeling_outputs import BaseModelOutput


class Encoder(torch.nn.Module):
    """Says what it was given, as transformers' models do."""

    def forward(self, value: torch.Tensor) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=value + 1, hidden_states=(value, value + 1))


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_what_a_graph_of_torch_gave_stays_what_it_was_when_it_runs_again(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer, kept = torch.zeros(2), torch.zeros(2)

    def recorded(inner: Any, **options: Any) -> Any:
        """As with CUDA graphs, every run writes to the same memory."""

        def run(value: torch.Tensor) -> BaseModelOutput:
            made = inner(value)
            buffer.copy_(made.last_hidden_state)
            kept.copy_(made.hidden_states[0])
            return BaseModelOutput(last_hidden_state=buffer, hidden_states=(kept, buffer))

        return run

    monkeypatch.setattr(torch, "compile", recorded)
    encoder = Encoder()
    compiled(encoder, "forward", mode=mode)
    prompt, negative = encoder(torch.zeros(2)), encoder(torch.full((2,), 5.0))
    assert isinstance(prompt, BaseModelOutput)
    assert prompt.last_hidden_state.tolist() == [1, 1]
    assert [one.tolist() for one in prompt.hidden_states] == [[0, 0], [1, 1]]
    assert negative.last_hidden_state.tolist() == [6, 6]
