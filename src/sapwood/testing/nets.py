"""Tiny random nets of each kind, built in memory, and one way to run any of them."""

from __future__ import annotations

from typing import Any

KINDS = ("llama", "qwen2", "qwen3", "gemma3_text", "gpt2")
EVERY_KIND = (*KINDS, "bert", "t5", "xlnet")

_PLAIN: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512,
        "bos_token_id": 1, "eos_token_id": 1,
    },
    "t5": {
        "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
        "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
    },
    "xlnet": {"d_model": 32, "d_inner": 64, "n_layer": 2, "n_head": 4},
}  # fmt: skip


def _sizes(kind: str) -> dict[str, Any]:
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    if kind != "bert":
        sizes |= {"num_key_value_heads": 2, "pad_token_id": 0, "head_dim": 8}
    if kind == "qwen2":
        del sizes["head_dim"]
    if kind == "gemma3_text":
        sizes |= {"num_hidden_layers": 4, "sliding_window": 8, "query_pre_attn_scalar": 8}
        sizes["layer_types"] = ["sliding_attention"] * 3 + ["full_attention"]
    return sizes


def tiny_net(kind: str, *, seed: int = 0, vocabulary: int = 300) -> Any:
    """Return a random transformers net of `kind` (one of EVERY_KIND), float32, frozen.

    Two layers (Gemma 3: four, three of them with a window of 8 tokens; T5: two a stack), hidden
    size 32, grouped queries where the kind has them. BERT comes without a head, the others with
    that of their language model.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    how: dict[str, Any] = {} if kind == "xlnet" else {"attn_implementation": "sdpa"}
    if kind == "t5":
        how = {"attn_implementation": "eager"}
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, **how, **_sizes(kind))
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    maker: Any = {"bert": AutoModel, "t5": AutoModelForSeq2SeqLM}.get(kind, AutoModelForCausalLM)
    net: Any = maker.from_config(config, **how)
    for name, parameter in net.named_parameters():
        if "norm" not in name and "ln_" not in name:  # the usual 0.02 hides mistakes of attention
            torch.nn.init.normal_(parameter, std=0.2)
    torch.random.set_rng_state(state)
    return net.eval().requires_grad_(False)


def run_tiny(net: Any) -> Any:
    """Return what a net of any kind says of two rows of 12 tokens, (rows, tokens, numbers).

    Differentiable: logits, of an encoder without a head the hidden states. A net with virtual
    tokens has them in front, and only what follows them is returned.
    """
    import torch

    from sapwood.methods.prompt import virtual_ids

    width = net.get_input_embeddings().weight.shape[0]
    rows = torch.tensor([[*range(20, 32)], [*range(40, 46), *range(20, 26)]]) % width
    front = virtual_ids(net)
    ids = torch.cat((torch.tensor([front] * 2, dtype=torch.long), rows), 1) if front else rows
    kind = net.config.model_type
    if kind == "t5":
        out = net(input_ids=ids, decoder_input_ids=rows[:, :5], use_cache=False).logits
        return out
    named: dict[str, Any] = {} if kind in ("bert", "xlnet") else {"use_cache": False}
    if kind == "xlnet":  # two segments, or their embedding takes no part
        half = torch.arange(ids.shape[1]) >= ids.shape[1] // 2
        named = {"token_type_ids": half.long().expand(2, -1), "use_mems": False}
    said = net(input_ids=ids, **named)
    out = said.last_hidden_state if kind == "bert" else said.logits
    return out[:, len(front) :]
