"""The sum over the vocabulary, block by block, equals the sum of whole logits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sapwood.models import labels
from sapwood.models.labels import vocabulary_log_sum

WORDS, WIDTH, POSITIONS = 2 * 4096 + 77, 16, 2 * 512 + 3  # neither fills its last block


class OtherHead(torch.nn.Linear):
    """A head whose output is more than its weight says, as under a trained branch."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return super().forward(states) * 2


def net_of(head: torch.nn.Module, cap: float | None) -> Any:
    config = SimpleNamespace(final_logit_softcapping=cap)
    return SimpleNamespace(config=config, get_output_embeddings=lambda: head)


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("kind", [torch.nn.Linear, OtherHead])
@pytest.mark.parametrize("bias", [False, True])
def test_sum_equals_that_of_whole_logits(
    cap: float | None, kind: type[torch.nn.Linear], bias: bool
) -> None:
    torch.manual_seed(0)
    head = kind(WIDTH, WORDS, bias=bias)
    states = torch.randn(POSITIONS, WIDTH) * 4
    with torch.no_grad():
        found = vocabulary_log_sum(net_of(head, cap), states)
        logits = head(states)
        logits = logits if cap is None else torch.tanh(logits / cap) * cap
        naive = torch.log(torch.exp(logits.double()).sum(-1))
    assert found.shape == (POSITIONS,)
    assert torch.allclose(found.double(), naive, atol=1e-5)


def test_sum_stays_finite_where_exponentials_overflow() -> None:
    head = torch.nn.Linear(1, WORDS, bias=False)
    with torch.no_grad():
        head.weight.fill_(1000.0)
        found = vocabulary_log_sum(net_of(head, None), torch.ones(1, 1))
    assert found.item() == pytest.approx(1000.0 + torch.tensor(float(WORDS)).log().item())


def test_whole_logits_are_never_held() -> None:
    """Blocks bound the memory: no product has more words than a block."""
    seen: list[int] = []
    linear = labels.functional.linear

    def watched(states: Any, weight: Any, bias: Any = None) -> Any:
        seen.append(len(states) * len(weight))
        return linear(states, weight, bias)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(labels.functional, "linear", watched)
        vocabulary_log_sum(net_of(torch.nn.Linear(4, WORDS), None), torch.randn(POSITIONS, 4))
    assert max(seen) <= 512 * 4096
    assert sum(seen) == WORDS * POSITIONS
