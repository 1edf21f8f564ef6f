"""Words as they come: whole characters, joined they are the text, stop words never show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sapwood.models.choosing import cut_at
from sapwood.pool.words import Words


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(ids).decode("utf-8", "replace")


@given(
    text=st.text(max_size=40),
    stops=st.lists(st.text(min_size=1, max_size=4), max_size=1),
    sizes=st.lists(st.integers(1, 5), min_size=60, max_size=60),
)
def test_pieces_are_the_text_up_to_a_stop(text: str, stops: list[str], sizes: list[int]) -> None:
    coded = list(text.encode("utf-8", "ignore"))
    text = bytes(coded).decode()
    words, said = Words(Bytes(), stops), []
    pieces = []
    while coded:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(coded[:size])
        coded = coded[size:]
    for number, piece in enumerate(pieces):
        said.append(words.add(piece, last=number == len(pieces) - 1))
        assert "\N{REPLACEMENT CHARACTER}" not in said[-1] or "\N{REPLACEMENT CHARACTER}" in text
    assert "".join(said) == cut_at(text, stops)
    assert words.stopped == any(stop in text for stop in stops)


def test_half_a_character_waits_for_the_other_half() -> None:
    words = Words(Bytes())
    halves = "长".encode()
    assert [words.add([byte]) for byte in halves] == ["", "", "长"]
    assert words.add([halves[0]]) == ""
    assert words.add([], last=True) == "\N{REPLACEMENT CHARACTER}"


def test_what_may_begin_a_stop_waits() -> None:
    words = Words(Bytes(), ["\n\nUser"])
    assert words.add(list(b"yes\n")) == "yes"
    assert words.add(list(b"\n")) == ""
    assert words.add(list(b"no")) == "\n\nno"
    assert words.add(list(b"\n\nUser: hi")) == ""
    assert words.stopped


def test_nothing_comes_after_a_stop() -> None:
    words = Words(Bytes(), ["1"])
    assert words.add(list(b"a1b")) == "a"
    assert words.add(list(b"c1d")) == ""
    assert words.add(list(b"e"), last=True) == ""


def test_the_stop_that_is_whole_first_ends_an_answer() -> None:
    words = Words(Bytes(), ["0", "a01"])
    assert words.add(list(b"a0")) == "a"
    assert words.add(list(b"1"), last=True) == ""
