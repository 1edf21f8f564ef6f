"""Fakes for tests, ours and yours: tiny random nets of each kind, built in memory."""

from __future__ import annotations

from typing import Any

KINDS = ("llama", "qwen2", "qwen3", "gemma3_text", "gpt2")


def tiny_net(kind: str, *, seed: int = 0, vocabulary: int = 300) -> Any:
    """Return a random transformers net of `kind` (one of KINDS, or "bert"), float32, frozen.

    Two layers (Gemma 3: four, three of them with a window of 8 tokens), hidden size 32, grouped
    queries where the kind has them.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    common: dict[str, Any] = {"vocab_size": vocabulary, "attn_implementation": "sdpa"}
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
        sizes |= {"bos_token_id": 1, "eos_token_id": 1}
    elif kind != "bert":
        sizes |= {"num_key_value_heads": 2, "pad_token_id": 0, "head_dim": 8}
    if kind == "qwen2":
        del sizes["head_dim"]
    if kind == "gemma3_text":
        sizes |= {"num_hidden_layers": 4, "sliding_window": 8, "query_pre_attn_scalar": 8}
        sizes["layer_types"] = ["sliding_attention"] * 3 + ["full_attention"]
    config = AutoConfig.for_model(kind, **common, **sizes)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    maker = AutoModel if kind == "bert" else AutoModelForCausalLM
    net: Any = maker.from_config(  # type: ignore[no-untyped-call]
        config, attn_implementation="sdpa"
    )
    for name, parameter in net.named_parameters():
        if "norm" not in name and "ln_" not in name:  # the usual 0.02 hides mistakes of attention
            torch.nn.init.normal_(parameter, std=0.2)
    torch.random.set_rng_state(state)
    return net.eval().requires_grad_(False)
