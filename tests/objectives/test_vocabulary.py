"""What is known of a tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sapwood.errors import ConfigError
from sapwood.objectives import Draws, Vocabulary, objective
from sapwood.testing.objectives import documents_of


def tokenizer(words, **special):
    """Return a word-level tokenizer with these special tokens."""
    inner = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token=words[0]))
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def test_a_bert_tokenizer_has_cls_sep_and_mask():
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "the", "man"]
    made = tokenizer(
        words, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip
    found = Vocabulary.of(made)
    assert found == Vocabulary(size=7, unk=0, pad=1, cls=2, sep=3, mask=4)
    assert found.specials == frozenset(range(5))
    assert found.ordinary.tolist() == [5, 6]
    assert (found.first, found.separator, found.opening) == (2, 3, None)


def test_sentinels_come_in_order_of_use_wherever_their_ids_are():
    words = ["<unk>", "</s>", "a", "b", "<extra_id_2>", "<extra_id_10>", "<extra_id_1>"]
    found = Vocabulary.of(tokenizer([*words, "<extra_id_0>"], unk_token="<unk>", eos_token="</s>"))
    assert found.sentinels == (7, 6, 4, 5)
    assert found.specials == {0, 1, 4, 5, 6, 7}
    assert (found.opening, found.separator) == (1, 1)


@pytest.mark.parametrize(
    "names",
    [
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ],
)
def test_the_tokens_of_filling_in_the_middle_and_of_modes_are_known_by_name(names):
    words = ["<unk>", "</s>", "x", *names, "[S2S]", "[NLU]", "[NLG]"]
    found = Vocabulary.of(tokenizer(words, unk_token="<unk>", eos_token="</s>"))
    assert (found.prefix, found.suffix, found.middle) == (3, 4, 5)
    assert found.modes == (7, 8, 6)
    assert found.ordinary.tolist() == [2]


def test_what_is_missing_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        Draws(objective("fim"), documents_of([range(24, 33)]), Vocabulary(size=900), length=64)
    assert str(caught.value) == (
        "E-CONFIG-201  The tokenizer cannot serve the objective 'fim'.\n"
        "  • no bos or eos token\n"
        "  • no eos token\n"
        "  • no token in front of a prefix (<fim_prefix>)\n"
        "  • no token in front of a suffix (<fim_suffix>)\n"
        "  • no token in front of a middle (<fim_middle>)\n"
        "  Fix: take a tokenizer that was made for this objective, or add these tokens to it"
    )
    for line, words in {
        "mlm": "no mask token",
        "span": "no sentinels (<extra_id_0>, <extra_id_1>, ...)",
        "nsp": "no cls or bos token",
        "mlm+nsp": "no sep or eos token",
        "mix(clm+prefix_lm)": "no eos token",
    }.items():
        with pytest.raises(ConfigError) as caught:
            objective(line).check(Vocabulary(size=9))
        assert words in caught.value.details


def test_ids_that_cannot_be_are_refused():
    with pytest.raises(ConfigError) as caught:
        Vocabulary(size=3, pad=0, eos=1, mask=7, modes=(2, 2), specials=frozenset({-1}))
    assert caught.value.code == "E-CONFIG-200"
    said = str(caught.value)
    assert "id 7 is outside 0 to 2" in said
    assert "id -1 is outside 0 to 2" in said
    assert "there are three modes or none, not 2" in said
    assert "all 3 ids are special; none is left for text" in said


def test_tables_of_ids_agree(vocabulary):
    assert np.flatnonzero(vocabulary.special).tolist() == sorted(vocabulary.specials)
    assert len(vocabulary.ordinary) + len(vocabulary.specials) == vocabulary.size
