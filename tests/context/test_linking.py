"""Names are found as a naive search finds them: longest first, on word boundaries."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context.linking import NameIndex, pieces, singular

word = st.sampled_from(["oak", "oaks", "red", "tree", "树", "红", "c", "+", "body", "bodies"])
name = st.lists(word, min_size=1, max_size=3).map(" ".join)


def naive(names: dict[str, str], text: str) -> list[tuple[int, int, set[str]]]:
    """Return (start, stop, entities) by trying every name at every place, longest first."""
    found, matches = pieces(text), []
    for start in range(len(found)):
        for stop in range(start + 1, len(found) + 1):
            who = set()
            for entity, own in names.items():
                sought = pieces(own)
                plural = [*sought[:-1], singular(sought[-1])]
                for form in (sought, plural):
                    window = found[start:stop]
                    if len(form) == len(window) and all(
                        piece in (w, singular(w)) for piece, w in zip(form, window, strict=True)
                    ):
                        who.add(entity)
            if who:
                matches.append((start, stop, who))
    kept: list[tuple[int, int, set[str]]] = []
    for match in sorted(matches, key=lambda m: (m[0] - m[1], m[0])):
        if all(match[1] <= k[0] or match[0] >= k[1] for k in kept):
            kept.append(match)
    return sorted(kept, key=lambda m: m[0])


@settings(max_examples=300, deadline=None)
@given(names=st.lists(name, min_size=1, max_size=6), text=st.lists(word, max_size=9).map(" ".join))
def test_the_trie_finds_what_a_naive_search_finds(names, text):
    named = {f"e{n}": own for n, own in enumerate(names) if any(c.isalnum() for c in own)}
    index = NameIndex({entity: [own] for entity, own in named.items()})
    found = [(m.start, m.stop, set(m.entities)) for m in index.mentions(text)]
    assert found == naive(named, text)


def linked(names: list[str], text: str) -> list[str]:
    index = NameIndex({own: [own] for own in names})
    return [entity for mention in index.mentions(text) for entity in mention.entities]


def test_the_longest_name_wins():
    names = ["new york", "york city hall", "city"]
    assert linked(names, "in New York City Hall") == ["york city hall"]
    assert linked(names, "in New York City") == ["new york", "city"]
    assert linked(["北京", "北京大学", "大学"], "我在北京大学读书，不在北京") == [
        "北京大学",
        "北京",
    ]


def test_word_boundaries_and_forms():
    assert linked(["art"], "party art-house") == ["art"]
    assert linked(["cell_function"], "Cell Functions and cell\nfunction") == ["cell_function"] * 2
    assert linked(["Alzheimer's disease"], "Alzheimer\u2019s diseases") == ["Alzheimer's disease"]
    assert linked(["C++", "C"], "C++ is not C.") == ["C++", "C"]
    assert linked(["mammals"], "a mammal") == ["mammals"]
    assert linked(["New York"], "I left York. New things, New. York") == []
    assert linked(["NBA"], "\uff2e\uff22\uff21球队") == ["NBA"]
    assert linked(["it", "It Girl", "who"], "who is it, the it girl") == ["It Girl"]
    assert linked(["", "?!", "..."], "?! ...") == []


def test_one_name_may_mean_several_entities():
    index = NameIndex({"carob.1": ["carob"], "carob.2": ["carob", "carob bean"]})
    assert index.mentions("Carobs!")[0].entities == ("carob.1", "carob.2")


def test_time_does_not_grow_with_the_number_of_names():
    class Counted(dict):  # type: ignore[type-arg]
        looked = 0

        def __contains__(self, key: object) -> bool:
            Counted.looked += 1
            return super().__contains__(key)

    text = " ".join(f"word{n}" for n in range(200))
    spent = []
    for size in (10, 10_000):
        index = NameIndex({str(n): [f"name{n} of{n}"] for n in range(size)})
        index._root = Counted(index._root)
        Counted.looked = 0
        index.mentions(text)
        spent.append(Counted.looked)
    assert spent[0] == spent[1] <= 2 * 200
