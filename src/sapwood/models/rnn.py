"""Recurrent language models: h_t = f(x_t, h_{t-1}) with LSTM or GRU cells, regularised as AWD-LSTM.

LSTM: Hochreiter and Schmidhuber 1997; GRU: Cho et al. 2014 (arXiv 1406.1078); weights dropped
between steps, dropout masks that stay the same over time, whole words dropped from the embedding,
penalties on activations and on their change, tied embeddings: Merity et al. 2018 (arXiv
1708.02182).

A folder is an ordinary checkpoint with `model_type` "sapwood_rnn"; `register` tells transformers'
Auto classes about it. Nothing is registered on import.
"""

from __future__ import annotations

from dataclasses import field, make_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.utils import GenerationMixin
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import ModelOutput

from sapwood.errors import ConfigError
from sapwood.models.cells import CELLS, Layer, State, chosen, forgotten, locked_dropout, runs_of

__all__ = ["KIND", "RNNConfig", "RNNForCausalLM", "RNNModel", "State", "chosen", "forgotten",
           "register"]  # fmt: skip

KIND = "sapwood_rnn"


class RNNConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Sizes and regularisation of a recurrent net.

    `cell`: "lstm" or "gru"; `hidden_size`: width of embeddings and of the states that the head
    reads; `cell_size`: width of all layers but the last, which gives `hidden_size`.

    Dropout shares in [0, 1), used while training only: `embedding_dropout` drops whole words,
    `input_dropout` what enters the first layer, `hidden_dropout` what goes from layer to layer,
    `output_dropout` what the head reads, `weight_drop` weights from h_{t-1} to h_t.
    `activation_penalty` and `change_penalty` are alpha and beta of Merity et al.; the defaults are
    their values for small corpora. Raises ConfigError (E-CONFIG-220).
    """

    model_type = KIND

    def __init__(
        self,
        vocab_size: int = 4096,
        cell: str = "lstm",
        hidden_size: int = 400,
        cell_size: int = 1150,
        num_hidden_layers: int = 3,
        tie_word_embeddings: bool = True,
        **given: Any,
    ) -> None:
        self.vocab_size, self.cell = vocab_size, cell
        self.hidden_size, self.cell_size = hidden_size, cell_size
        self.num_hidden_layers = num_hidden_layers
        for name, value in REGULARISED.items():
            setattr(self, name, float(given.pop(name, value)))
        super().__init__(**{"tie_word_embeddings": tie_word_embeddings, **given})
        self._check()

    def _check(self) -> None:
        sizes = ("vocab_size", "hidden_size", "cell_size", "num_hidden_layers")
        wrong = [f"{n} must be 1 or more, got {getattr(self, n)}" for n in sizes
                 if getattr(self, n) < 1]  # fmt: skip
        for name in REGULARISED:
            value, most = getattr(self, name), 1.0 if "penalty" not in name else float("inf")
            if not 0 <= value < most:
                wrong.append(f"{name} must be 0 or more and below {most:g}, got {value:g}")
        if self.cell not in CELLS:
            wrong.append(f"cell must be {' or '.join(CELLS)}, got {self.cell!r}")
        if wrong:
            raise ConfigError("E-CONFIG-220", "A recurrent net cannot be made so.", details=wrong)


# Merity et al. 2018, section 5 and the reference code's settings for the Penn Treebank.
REGULARISED = {
    "embedding_dropout": 0.1, "input_dropout": 0.4, "hidden_dropout": 0.25, "output_dropout": 0.4,
    "weight_drop": 0.5, "activation_penalty": 2.0, "change_penalty": 1.0,
}  # fmt: skip


# transformers fills its outputs after it made them: no frozen dataclass can be one.
# `last_hidden_state`: (rows, length, hidden), zeros at padding; `state` after the last token;
# `penalty`: what activation regularisation adds to the loss, a scalar, None outside training.
RNNStates: Any = make_dataclass(
    "RNNStates",
    [(name, Any, field(default=None)) for name in ("last_hidden_state", "state", "penalty")],
    bases=(ModelOutput,),
)
# `logits`: (rows, kept, vocabulary); `loss` with the penalty in it; the rest as above.
RNNLogits: Any = make_dataclass(
    "RNNLogits",
    [(name, Any, field(default=None)) for name in ("loss", "logits", "state", "penalty")],
    bases=(ModelOutput,),
)


class RNNPretrained(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What transformers needs to know of both nets."""

    config_class = RNNConfig
    base_model_prefix = "model"
    _is_stateful = True
    _supports_sdpa = True  # there is no attention, so any way to compute it is right

    def _init_weights(self, module: nn.Module) -> None:
        """Draw embeddings as Merity et al. do, cells as torch does."""
        if isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -0.1, 0.1)
        elif isinstance(module, nn.LSTM | nn.GRU):
            bound = module.hidden_size**-0.5
            for weight in module.parameters():
                nn.init.uniform_(weight, -bound, bound)
        elif isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, -0.1, 0.1)


class RNNModel(RNNPretrained):  # type: ignore[no-untyped-call]
    """Embeddings and layers of cells."""

    def __init__(self, config: RNNConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        widths = [config.hidden_size, *[config.cell_size] * (config.num_hidden_layers - 1)]
        pairs = zip(widths, [*widths[1:], config.hidden_size], strict=True)
        self.layers = nn.ModuleList(Layer(config.cell, a, b, config.weight_drop) for a, b in pairs)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings."""
        return self.embed_tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        documents: Tensor | None = None,
        state: State | None = None,
        inputs_embeds: Tensor | None = None,
        **ignored: Any,
    ) -> Any:
        """Run rows of tokens, ids (rows, length), on from `state`; return `RNNStates`.

        `attention_mask`: (rows, length), 0 at padding on either side; `documents`: (rows, length),
        any numbers: where the number changes, the state starts anew. The first document of a row
        goes on from `state`. The state that is returned carries no gradient, so that passing it
        on is truncated backpropagation through time.
        """
        values = self._embedded(input_ids) if inputs_embeds is None else inputs_embeds
        values = locked_dropout(values, self._share("input_dropout"))
        runs = runs_of(values, attention_mask, documents)
        rows, after = len(values), list[tuple[Tensor, ...]]()
        raw = values
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            begun = state[number] if state is not None else layer.begin(rows, values)
            raw, ended = layer(values, begun, runs)
            after.append(tuple(part.detach() for part in ended))
            last = number == len(self.layers) - 1
            share = self._share("output_dropout" if last else "hidden_dropout")
            values = locked_dropout(raw, share)
        penalty = None
        if self.training:
            real = torch.ones_like(raw[..., 0]) if attention_mask is None else attention_mask
            penalty = self._penalty(raw, values, real.bool(), documents)
        return RNNStates(last_hidden_state=values, state=tuple(after), penalty=penalty)

    def _share(self, name: str) -> float:
        return float(getattr(self.config, name)) if self.training else 0.0

    def _embedded(self, ids: Tensor | None) -> Tensor:
        """Return the embeddings of ids, some words dropped everywhere they occur."""
        assert ids is not None, "a net needs input_ids or inputs_embeds"
        weight, share = self.embed_tokens.weight, self._share("embedding_dropout")
        if share:
            weight = weight * functional.dropout(weight.new_ones(len(weight), 1), share)
        return functional.embedding(ids, weight)

    def _penalty(
        self, raw: Tensor, dropped: Tensor, real: Tensor, documents: Tensor | None
    ) -> Tensor:
        """Return alpha * mean h^2 (after dropout) + beta * mean (h_t - h_{t-1})^2."""
        config: Any = self.config
        both = real[:, 1:] & real[:, :-1]
        if documents is not None:
            both = both & (documents[:, 1:] == documents[:, :-1])
        change = (raw[:, 1:] - raw[:, :-1])[both].pow(2)
        slow = change.mean() if change.numel() else raw.new_zeros(())
        large = dropped[real].pow(2).mean()
        return config.activation_penalty * large + config.change_penalty * slow  # type: ignore[no-any-return]


class RNNForCausalLM(RNNPretrained, GenerationMixin):  # type: ignore[no-untyped-call]
    """A recurrent net with the head of a language model, tied to the embeddings."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: RNNConfig) -> None:
        super().__init__(config)
        self.model = RNNModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings."""
        embeddings: nn.Module = self.model.embed_tokens
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        head: nn.Module = self.lm_head
        return head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **given: Any,
    ) -> Any:
        """Return logits of the next tokens as `RNNLogits`; `given` as for RNNModel.

        `labels`: (rows, length), the ids themselves, -100 where nothing is learnt; the loss is the
        mean in nats of each label given what stands before it, plus the penalty.
        `logits_to_keep`: only those of so many last tokens, 0 for all.
        """
        found = self.model(input_ids, attention_mask, **given)
        logits = self.lm_head(found.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
            )
            loss = loss if found.penalty is None else loss + found.penalty
        return RNNLogits(loss=loss, logits=logits, state=found.state, penalty=found.penalty)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Return False: what is kept of the past is a state of constant size."""
        return False

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        state: State | None = None,
        inputs_embeds: Tensor | None = None,
        **given: Any,
    ) -> dict[str, Any]:
        """Return what `forward` needs for the next token: the whole prompt, then one token."""
        if state is not None:
            return {"input_ids": input_ids[:, -1:], "state": state, "logits_to_keep": 1}
        first = {"inputs_embeds": inputs_embeds} if inputs_embeds is not None else {}
        return {"input_ids": input_ids, "attention_mask": attention_mask, **first}

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *given: Any, **named: Any
    ) -> dict[str, Any]:
        """Carry the state to the next token."""
        kept = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *given, **named)
        return {**kept, "state": outputs.state}

    @staticmethod
    def _reorder_cache(state: State, beams: Tensor) -> State:
        return chosen(state, beams)


def register() -> None:
    """Make transformers' Auto classes load folders of this kind; once or often, alike."""
    AutoConfig.register(KIND, RNNConfig, exist_ok=True)
    AutoModel.register(RNNConfig, RNNModel, exist_ok=True)
    AutoModelForCausalLM.register(RNNConfig, RNNForCausalLM, exist_ok=True)
