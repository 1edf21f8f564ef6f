"""Which example comes when: every one once an epoch, old and new text in their shares."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapwood.errors import ConfigError
from sapwood.training.stream import Blend, Stream


class Numbered:
    """Draws that say which they are; epochs differ in size."""

    def __init__(self, name: str = "", sizes: tuple[int, ...] = (5, 7, 6)) -> None:
        self.name, self.sizes = name, sizes

    def plan(self, epoch: int) -> int:
        return self.sizes[epoch % len(self.sizes)]

    def draw(self, epoch: int, index: int) -> dict[str, Any]:
        assert 0 <= index < self.plan(epoch)
        return {"name": self.name, "epoch": epoch, "index": index}


def test_every_example_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    stream = Stream(Numbered(), seed=3)
    found = [stream.example(place) for place in range(18)]
    for epoch, (first, size) in enumerate([(0, 5), (5, 7), (12, 6)]):
        own = found[first : first + size]
        assert {e["epoch"] for e in own} == {epoch}
        assert sorted(e["index"] for e in own) == list(range(size))
    assert [e["index"] for e in found[:5]] != list(range(5))


@given(st.integers(0, 200), st.integers(0, 50))
def test_an_example_does_not_depend_on_those_before(place: int, seed: int) -> None:
    walked = Stream(Numbered(), seed)
    for before in range(place):
        walked.example(before)
    assert walked.example(place) == Stream(Numbered(), seed).example(place)


@given(st.integers(1, 400), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]))
def test_old_text_comes_in_its_share_and_nothing_is_left_out(count: int, share: float) -> None:
    blend = Blend(Stream(Numbered("new")), Stream(Numbered("old")), share)
    found = [blend.example(place) for place in range(count)]
    old = sum(e["name"] == "old" for e in found)
    assert abs(old - share * count) <= 1
    for name, many in (("old", old), ("new", count - old)):
        own = Stream(Numbered(name))
        assert [e for e in found if e["name"] == name] == [own.example(n) for n in range(many)]


def test_old_text_is_spread_evenly() -> None:
    blend = Blend(Stream(Numbered("new")), Stream(Numbered("old")), 0.25)
    names = [blend.example(place)["name"] for place in range(40)]
    assert all(Counter(names[n : n + 4])["old"] == 1 for n in range(0, 40, 4))


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError) as caught:
        Blend(Stream(Numbered()), Stream(Numbered()), share)
    assert caught.value.code == "E-CONFIG-242"
