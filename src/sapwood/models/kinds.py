"""Nets to train from nothing, by name: `bert-tiny`, `gpt-small`, `decoder-mini`, ...

Widths and depths follow the small BERTs (Turc et al. 2019, arXiv 1908.08962: 2 layers of 128, 4 of
256, 4 of 512, 12 of 768; heads of 64; feed-forward four times the width). Nets are ordinary
transformers ones without dropout: at these sizes a text is seen too rarely to be learnt by heart
(Geiping and Goldstein 2022, arXiv 2212.14034).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from sapwood.errors import ConfigError
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.registry import did_you_mean

SIZES: Mapping[str, tuple[int, int]] = {  # layers, width
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "base": (12, 768),
}
HEAD = 64  # the width of an attention head
RECURRENT = ("lstm", "gru")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A family of nets: `what` it is, the `objectives` that train it, `config` and net classes.

    `extra` maps an objective to the class that has its head where the usual class has none.
    """

    name: str
    what: str
    objectives: tuple[str, ...]
    config: str
    net: str
    extra: Mapping[str, str] = field(default_factory=dict)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="bert", what="encoder (Devlin et al. 2019, arXiv 1810.04805)",
            objectives=("mlm", "nsp", "sop"), config="BertConfig", net="BertForMaskedLM",
            extra={"nsp": "BertForPreTraining", "sop": "BertForPreTraining"},
        ),
        Kind(
            name="albert", what="encoder, one block for all layers (Lan et al. 2020, 1909.11942)",
            objectives=("mlm", "sop", "nsp"), config="AlbertConfig", net="AlbertForMaskedLM",
            extra={"sop": "AlbertForPreTraining", "nsp": "AlbertForPreTraining"},
        ),
        Kind(
            name="encoder", what="modern encoder: RoPE, GeGLU, pre-norm, no biases (ModernBERT, "
            "Warner et al. 2024, arXiv 2412.13663)",
            objectives=("mlm",), config="ModernBertConfig", net="ModernBertForMaskedLM",
        ),
        Kind(
            name="electra", what="encoder that finds the tokens a small generator replaced (Clark "
            "et al. 2020, arXiv 2003.10555)",
            objectives=("rtd",), config="ElectraConfig", net="ElectraForPreTraining",
        ),
        Kind(
            name="xlnet", what="two-stream permutation model (Yang et al. 2019, arXiv 1906.08237)",
            objectives=("plm",), config="XLNetConfig", net="XLNetLMHeadModel",
        ),
        Kind(
            name="t5", what="encoder-decoder (Raffel et al. 2020, arXiv 1910.10683; v1.1: gated "
            "GELU)",
            objectives=("span", "ul2", "prefix_lm"), config="T5Config",
            net="T5ForConditionalGeneration",
        ),
        Kind(
            name="gpt", what="decoder (Radford et al. 2019, GPT-2)",
            objectives=("clm", "fim", "prefix_lm"), config="GPT2Config", net="GPT2LMHeadModel",
        ),
        Kind(
            name="decoder", what="modern decoder: RoPE, SwiGLU, RMS norms, QK-norm (Qwen3, "
            "arXiv 2505.09388)",
            objectives=("clm", "fim", "prefix_lm"), config="Qwen3Config", net="Qwen3ForCausalLM",
        ),
        Kind(
            name="lstm", what="recurrent net with AWD-LSTM's care (Merity et al. 2018, 1708.02182)",
            objectives=("clm",), config="", net="",
        ),
        Kind(
            name="gru", what="recurrent net with gates of the GRU (Cho et al. 2014, 1406.1078)",
            objectives=("clm",), config="", net="",
        ),
        Kind(
            name="ngram", what="counts with modified Kneser-Ney smoothing, as ngram-5 (Chen and "
            "Goodman 1999)",
            objectives=("clm",), config="", net="",
        ),
    )
}  # fmt: skip
# Checkpoints that training can go on with: transformers' name of the kind -> ours.
MODEL_TYPES: Mapping[str, str] = {
    "bert": "bert", "albert": "albert", "modernbert": "encoder", "electra": "electra",
    "xlnet": "xlnet", "t5": "t5", "gpt2": "gpt", "qwen3": "decoder", "llama": "decoder",
    "qwen2": "decoder", "mistral": "decoder", "gemma3_text": "decoder",
}  # fmt: skip


def kind_of(name: str) -> tuple[Kind, str]:
    """Return (kind, size) of a net's name: "bert-tiny" -> (BERT, "tiny"); "ngram-5" -> (.., "5").

    Raises ConfigError (E-CONFIG-240) for a name that is neither.
    """
    family, _, size = name.strip().lower().partition("-")
    sized = bool(re.fullmatch(r"[1-9]", size)) if family == "ngram" else size in SIZES
    if family in KINDS and sized:
        return KINDS[family], size
    known = [f"{kind}-{size}" for kind in KINDS if kind != "ngram" for size in SIZES]
    raise ConfigError(
        "E-CONFIG-240",
        f"Unknown net '{name}'.{did_you_mean(name, [*known, 'ngram-5'])}",
        fix=f"a kind ({', '.join(KINDS)}) and a size ({', '.join(SIZES)}), such as bert-tiny; "
        "list them with: sapwood pretrain --models",
    )


def check_fit(kind: Kind, objectives: tuple[str, ...]) -> None:
    """Raise ConfigError (E-CONFIG-241) unless `kind` can be trained for all `objectives`."""
    wrong = [name for name in objectives if name not in kind.objectives]
    if not wrong:
        return
    others = [k.name for k in KINDS.values() if all(o in k.objectives for o in objectives)]
    fixes = [f"--objective {kind.objectives[0]}"]
    if others:
        fixes.append(" or ".join(f"--model {name}-tiny" for name in others if name != "ngram"))
    raise ConfigError(
        "E-CONFIG-241",
        f"The objective {'+'.join(objectives)} does not train nets of the kind '{kind.name}': "
        f"{kind.what}.",
        details=[f"{kind.name} is trained for {', '.join(kind.objectives)}"],
        fix=", or ".join(fixes),
    )


def configured(name: str, vocabulary: Vocabulary, length: int, dropout: float = 0.0) -> Any:
    """Return the transformers config of the net `name` for a vocabulary and rows of `length`.

    `dropout`: share in [0, 1) of what enters and leaves the blocks, never of attention, that is
    zeroed in training. Raises ConfigError (E-CONFIG-248) for a kind that has none.
    """
    kind, size = kind_of(name)
    if dropout and kind.name in ("decoder", "ngram"):
        raise ConfigError(
            "E-CONFIG-248", f"Nets of the kind '{kind.name}' have no dropout: {kind.what}.",
            fix=f"--model gpt-{size} or lstm-{size}, or no --dropout",
        )  # fmt: skip
    layers, width = SIZES[size]
    heads = width // HEAD
    ids = {"pad_token_id": vocabulary.pad, "bos_token_id": vocabulary.bos}
    ids["eos_token_id"] = vocabulary.eos
    plain: dict[str, Any] = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": 4 * width, "max_position_embeddings": length,
        "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    gated = 64 * round(8 / 3 * width / 64)  # as many weights as an ungated one of 4 times the width
    given: dict[str, dict[str, Any]] = {
        "bert": plain,
        # ALBERT and ELECTRA keep embeddings of 128 at every size.
        "albert": plain | {"embedding_size": 128, "classifier_dropout_prob": 0.0},
        "electra": plain | {"embedding_size": 128},
        "encoder": {
            "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": gated, "max_position_embeddings": length,
            # All layers see the whole row: at these lengths local ones save next to nothing.
            "global_attn_every_n_layers": 1, "global_rope_theta": 10000.0, "decoder_bias": False,
            "cls_token_id": vocabulary.cls, "sep_token_id": vocabulary.sep,
            "embedding_dropout": dropout, "mlp_dropout": dropout,
        },
        "xlnet": {
            "d_model": width, "n_layer": layers, "n_head": heads, "d_inner": 4 * width,
            "dropout": dropout, "use_mems_eval": False, "use_mems_train": False,
        },
        "t5": {
            "d_model": width, "num_layers": layers, "num_heads": heads, "d_ff": gated,
            "d_kv": HEAD, "dropout_rate": dropout, "feed_forward_proj": "gated-gelu",
            "decoder_start_token_id": vocabulary.pad or 0,
        },
        "gpt": {
            "n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": length,
            "resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": 0.0,
        },
        "decoder": {
            "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "head_dim": HEAD, "intermediate_size": gated,
            "max_position_embeddings": length, "tie_word_embeddings": True,
        },
    }  # fmt: skip
    if kind.name in RECURRENT:
        return _recurrent(kind.name, size, vocabulary, ids, dropout)
    transformers: Any = import_module("transformers")
    made = getattr(transformers, kind.config)
    return made(vocab_size=vocabulary.size, **ids, **given[kind.name])


def _recurrent(
    cell: str, size: str, vocabulary: Vocabulary, ids: Mapping[str, Any], dropout: float
) -> Any:
    """Return the config of a recurrent net: layers twice as wide as its embeddings.

    With a dropout of 0.4 it is regularised as Merity et al. do for small corpora, with another one
    in proportion, with 0 not at all.
    """
    from sapwood.models.rnn import REGULARISED, RNNConfig

    layers, width = SIZES[size]
    strength = dropout / REGULARISED["input_dropout"]
    care: dict[str, Any] = {name: strength * value for name, value in REGULARISED.items()}
    care["weight_drop"] = min(care["weight_drop"], 0.9)
    return RNNConfig(
        vocab_size=vocabulary.size, cell=cell, hidden_size=width, cell_size=2 * width,
        num_hidden_layers=layers, **ids, **care,
    )  # fmt: skip


def new_net(
    name: str,
    vocabulary: Vocabulary,
    length: int,
    objectives: tuple[str, ...],
    *,
    seed: int = 0,
    dropout: float = 0.0,
) -> Any:
    """Return a new net on the CPU in float32, its weights drawn from `seed`.

    `length`: the longest row in tokens, special ones included. An ELECTRA is a `Pair`. Raises what
    `kind_of`, `check_fit` and `configured` raise.
    """
    import torch

    kind, _ = kind_of(name)
    check_fit(kind, objectives)
    config = configured(name, vocabulary, length, dropout)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        if kind.name == "electra":
            from sapwood.models.pair import new_pair

            return new_pair(config)
        return net_class(kind, objectives)(config)
    finally:
        torch.random.set_rng_state(state)


def net_class(kind: Kind, objectives: tuple[str, ...]) -> Any:
    """Return the class of nets that has the heads which `objectives` need."""
    if kind.name in RECURRENT:
        return import_module("sapwood.models.rnn").RNNForCausalLM
    wanted = next((kind.extra[name] for name in objectives if name in kind.extra), kind.net)
    return getattr(import_module("transformers"), wanted)


def parameter_count(name: str, vocabulary: int, length: int) -> int:
    """Return how many weights the net `name` has, tied ones once; none are allocated."""
    import torch

    kind, _ = kind_of(name)
    config = configured(name, Vocabulary(size=vocabulary, pad=0), length)
    with torch.device("meta"):
        net = net_class(kind, ())(config)
    return sum(p.numel() for p in net.parameters())
