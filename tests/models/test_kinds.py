"""Nets by name: what they are, what trains them, and what is refused."""

from __future__ import annotations

import pytest
import torch

from sapwood.errors import ConfigError
from sapwood.models.kinds import KINDS, check_fit, configured, kind_of, new_net, parameter_count
from sapwood.objectives import OBJECTIVES, Vocabulary

WORDS = Vocabulary(size=300, pad=0, bos=1, eos=2, cls=3, sep=4)
NETS = [name for name in KINDS if name != "ngram"]


@pytest.mark.parametrize("name", NETS)
def test_a_net_of_every_kind_is_drawn_from_its_seed(name: str) -> None:
    objectives = KINDS[name].objectives[:1]
    nets = [new_net(f"{name}-tiny", WORDS, 32, objectives, seed=seed) for seed in (0, 0, 1)]
    first, again, other = ([p.detach() for p in net.parameters()] for net in nets)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    config = nets[0].config
    assert config.vocab_size == 300
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    assert not [m for m in nets[0].modules() if isinstance(m, torch.nn.Dropout) and m.p]


def test_a_net_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    new_net("gpt-tiny", WORDS, 32, ("clm",))
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("name", NETS)
def test_weights_are_counted_without_making_them(name: str) -> None:
    net = new_net(f"{name}-tiny", WORDS, 32, KINDS[name].objectives[:1])
    kept = net.discriminator if name == "electra" else net
    assert parameter_count(f"{name}-tiny", 300, 32) == sum(p.numel() for p in kept.parameters())


def test_bert_base_has_the_weights_of_its_paper() -> None:
    # 12 layers of 768 with 30,522 tokens: 110 M (Devlin et al. 2019), pooler left out
    assert parameter_count("bert-base", 30522, 512) == pytest.approx(110e6, rel=0.01)


def test_the_generator_is_a_quarter_as_wide_and_shares_embeddings() -> None:
    pair = new_net("electra-mini", WORDS, 32, ("rtd",))
    assert pair.generator.config.hidden_size == pair.config.hidden_size // 4
    assert pair.generator.config.num_hidden_layers == pair.config.num_hidden_layers
    assert pair.generator.electra.embeddings is pair.discriminator.electra.embeddings
    names = [name for name, _ in pair.named_parameters() if "word_embeddings" in name]
    assert len(names) == 1


def test_heads_follow_the_objective() -> None:
    assert type(new_net("bert-tiny", WORDS, 32, ("mlm",))).__name__ == "BertForMaskedLM"
    assert type(new_net("bert-tiny", WORDS, 32, ("mlm", "nsp"))).__name__ == "BertForPreTraining"
    assert type(new_net("albert-tiny", WORDS, 32, ("mlm", "sop"))).__name__ == (
        "AlbertForPreTraining"
    )


def test_every_objective_trains_a_kind() -> None:
    trained = {name for kind in KINDS.values() for name in kind.objectives}
    assert trained == set(OBJECTIVES)


def test_a_wrong_pair_is_refused_with_what_would_do() -> None:
    with pytest.raises(ConfigError) as caught:
        check_fit(KINDS["bert"], ("clm",))
    assert caught.value.code == "E-CONFIG-241"
    assert caught.value.what == (
        "The objective clm does not train nets of the kind 'bert': encoder (Devlin et al. 2019, "
        "arXiv 1810.04805)."
    )
    assert caught.value.details == ("bert is trained for mlm, nsp, sop",)
    assert caught.value.fix == (
        "--objective mlm, or --model gpt-tiny or --model decoder-tiny or --model lstm-tiny or "
        "--model gru-tiny"
    )


@pytest.mark.parametrize("name", ["bert-tinny", "bret-tiny", "bert", "ngram-0", "ngram-tiny", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind_of(name)
    assert caught.value.code == "E-CONFIG-240"
    assert "sapwood pretrain --models" in caught.value.fix


def test_a_near_miss_is_told() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'bert-tiny'\?"):
        kind_of("bert-tinny")


def test_positions_end_where_rows_do() -> None:
    assert configured("gpt-tiny", WORDS, 77).n_positions == 77
    assert configured("decoder-tiny", WORDS, 77).max_position_embeddings == 77
