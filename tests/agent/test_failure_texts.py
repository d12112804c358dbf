"""What a failure leaves behind in words: the right outcome, and nothing secret."""

import pytest
from paretune.agent._failures import classify, sentence, tail, without_secrets
from paretune.studies import Outcome


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("401 for token hf_AbCdEf123456", "401 for token hf_***"),
        ("postgresql://ann:s3cret@db/x failed", "postgresql://ann:***@db/x failed"),
        ("nothing to hide at https://example.org/a@b", "nothing to hide at https://example.org/a@b"),
    ],
)
def test_secrets_become_stars(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    error = OSError(text)
    assert shown in sentence(error, "load")
    assert shown in tail(error)


@pytest.mark.parametrize("phase", ["start", "load", "judge"])
def test_a_configuration_is_not_blamed_for_what_surrounds_it(phase: str) -> None:
    assert classify(FileNotFoundError("trial-0000/pictures"), phase) is Outcome.INFRASTRUCTURE
