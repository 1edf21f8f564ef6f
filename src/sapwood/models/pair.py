"""ELECTRA's two nets as one: a small generator and the discriminator that is kept.

Clark et al. 2020, arXiv 2003.10555: the generator has the depth of the discriminator and a quarter
of its width (a third at base size), and shares its embeddings.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

GENERATOR = "generator"  # its folder inside the checkpoint's


class Pair(nn.Module):
    """`generator` fills masks in, `discriminator` says which tokens are not the text's own."""

    def __init__(self, generator: Any, discriminator: Any) -> None:
        super().__init__()
        discriminator.electra.embeddings = generator.electra.embeddings
        self.generator, self.discriminator = generator, discriminator

    @property
    def config(self) -> Any:
        """Return the config of the discriminator, whose checkpoint this is."""
        return self.discriminator.config

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.discriminator.device  # type: ignore[no-any-return]

    def set_attn_implementation(self, name: str) -> None:
        """Choose the attention of both nets."""
        self.generator.set_attn_implementation(name)
        self.discriminator.set_attn_implementation(name)

    def save_pretrained(self, folder: Path) -> None:
        """Write the discriminator to `folder` and the generator to a folder inside it."""
        self.discriminator.save_pretrained(folder)
        self.generator.save_pretrained(folder / GENERATOR)


def new_pair(config: Any) -> Pair:
    """Return a new pair whose discriminator has `config`."""
    from transformers import ElectraForMaskedLM, ElectraForPreTraining

    small = copy.deepcopy(config)
    width = config.hidden_size // (3 if config.hidden_size >= 768 else 4)
    head = config.hidden_size // config.num_attention_heads
    heads = max(1, width // head)
    small.update({"hidden_size": width, "num_attention_heads": heads})
    small.update({"intermediate_size": 4 * width})
    generator: Any = ElectraForMaskedLM(small)
    return Pair(generator, ElectraForPreTraining(config))


def loaded_pair(folder: Path, **how: Any) -> Pair:
    """Return the pair that `save_pretrained` wrote."""
    from transformers import ElectraForMaskedLM, ElectraForPreTraining

    generator: Any = ElectraForMaskedLM.from_pretrained(folder / GENERATOR, **how)
    return Pair(generator, ElectraForPreTraining.from_pretrained(folder, **how))
