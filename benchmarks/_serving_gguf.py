"""GGUF files of a Llama and of LoRA on it, for llama.cpp: the same weights as the other sides have.

Rotations differ: llama.cpp turns neighbouring pairs of a head where transformers turns halves, so
rows of the query and key projections change places.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


def _turned(rows: Rows, heads: int) -> Rows:
    """Return the rows of a query or key projection in llama.cpp's order."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _heads(name: str, config: Any) -> int:
    """Return the heads whose rows a tensor holds in another order, 0 for none."""
    if "q_proj" in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if "k_proj" in name else 0


def _names(config: Any) -> Any:
    import gguf

    return gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)


def write_base(net: Any, tokenizer: Any, file: Path, kind: str) -> None:
    """Write a net of the Llama kind; `kind`: "F32", "F16" or "Q8_0" for what is a matrix."""
    import gguf

    config, names = net.config, _names(net.config)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    _write_tokenizer(writer, tokenizer)
    wanted = gguf.GGMLQuantizationType[kind]
    for name, tensor in net.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.detach().float().cpu().numpy()
        if heads := _heads(name, config):
            values = _turned(values, heads)
        own = wanted if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(
            names.get_name(name, (".weight",)),
            gguf.quants.quantize(values, own), raw_dtype=own,
        )  # fmt: skip
    _write_all(writer)


def _write_tokenizer(writer: Any, tokenizer: Any) -> None:
    import gguf

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in content["added_tokens"] if token["special"]}
    order = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    words = [word for word, _ in order]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([kinds.CONTROL if w in special else kinds.NORMAL for w in words])
    merges = content["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id or 0)
    writer.add_eos_token_id(tokenizer.eos_token_id or 0)
    writer.add_add_bos_token(False)


def write_lora(folder: Path, net: Any, file: Path) -> None:
    """Write the LoRA of a folder in PEFT's layout, in single precision."""
    import gguf
    from safetensors.numpy import load_file

    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    names = _names(net.config)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(settings["lora_alpha"]))
    for key, values in load_file(folder / "adapter_model.safetensors").items():
        path, _, half = key.removeprefix("base_model.model.").partition(".lora_")
        heads = _heads(path, net.config)
        if half.startswith("B") and heads:
            values = _turned(values, heads)
        writer.add_tensor(f"{names.get_name(path)}.weight.lora_{half[0].lower()}", values)
    _write_all(writer)


def _write_all(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
