"""Six kinds of row in one batch, each to the token what PEFT and transformers say alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.pool.conftest import RUNTIME, Asker

from sapwood.adaptation import Adaptation, load, save
from sapwood.context.prompter import Context, Prompter
from sapwood.context.template import default_template
from sapwood.evaluation import Bases
from sapwood.interfaces import Example
from sapwood.methods import parts
from sapwood.methods.folder import read_method, write_method
from sapwood.methods.together import parse
from sapwood.models.choosing import Sampling
from sapwood.models.load import load_base
from sapwood.pool.pool import open_pool
from sapwood.readouts import bias
from sapwood.readouts.verbalizer import Verbalizer

BASE = "smollm2-135m"
TEXT = "The old lighthouse keeper climbed the stairs and"
TOKENS = 12
LABELS = ("negative", "positive")
ROWS = [("a fine and moving film", "positive"), ("a dull, endless film", "negative"),
        ("the songs are lovely", "positive"), ("nothing works here", "negative")]  # fmt: skip
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def fill(model: Any, seed: int, scale: float) -> None:
    """Move everything that PEFT trains away from where it starts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in sorted(model.named_parameters()):
            if tensor.requires_grad:
                tensor.add_(scale * torch.randn(tensor.shape, generator=generator))


def by_peft(config: Any, folder: Path, seed: int, scale: float) -> None:
    """Write an adapter with PEFT."""
    from peft import get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(load_base(BASE, RUNTIME).net, config)
    fill(model, seed, scale)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four folders that PEFT wrote or could have, a bottleneck, and LoRA under demonstrations."""
    from peft import LoraConfig, PrefixTuningConfig

    root = tmp_path_factory.mktemp("adapters")
    found = {name: root / name for name in ("lora-8", "lora-16", "prefix", "neck", "context")}
    some = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    every = LoraConfig(r=16, lora_alpha=32, target_modules=LINEAR, task_type="CAUSAL_LM")
    by_peft(some, found["lora-8"], 1, 0.1)
    by_peft(every, found["lora-16"], 2, 0.04)
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=7)
    by_peft(prefix, found["prefix"], 3, 0.3)
    bases = Bases(RUNTIME)
    net = bases.get(BASE).net
    neck = parse("adapter(width=24)")
    neck.attach(net, seed=4)
    fill(net, 4, 0.05)
    write_method(parts.stored(net), neck, found["neck"], base=BASE, transposed=False)
    parts.detach(net)
    method, tensors = read_method(found["lora-16"])
    made = Adaptation(
        labels=LABELS,
        readout_name="verbalizer",
        readout=Verbalizer(labels=LABELS, bias=bias.none(2), normalise="trie"),
        base=bases.reference(BASE),
        context=Context(
            template=default_template(LABELS, [text for text, _ in ROWS]),
            demonstrations=tuple(
                Example(text=text, label=label, row=n) for n, (text, label) in enumerate(ROWS)
            ),
            selection="given", shots=4,
        ),
        method=method, weights=tensors, scope="all",
    )  # fmt: skip
    save(made, found["context"])
    return found


@torch.no_grad()
def say(net: Any, ids: list[int]) -> list[int]:
    """Return the most probable tokens, one after the other, each from a whole forward pass.

    PEFT's own `generate` leaves trained prefixes out (0.21.2 with transformers 5.24).
    """
    said = list(ids)
    for _ in range(TOKENS):
        given = torch.tensor([said])
        logits = net(input_ids=given, attention_mask=torch.ones_like(given)).logits
        said.append(int(logits[0, -1].argmax()))
    return said[len(ids) :]


def alone(folders: dict[str, Path]) -> dict[str, str]:
    """Return what each says by itself, with PEFT where it has the method."""
    from peft import PeftModel

    tokenizer = load_base(BASE, RUNTIME).tokenizer
    ids = tokenizer(TEXT)["input_ids"]
    context = load(folders["context"]).context
    assert context is not None
    prompter = Prompter(tokenizer, context)
    rest = prompter.rest([TEXT])[0]
    asked = dict.fromkeys((BASE, "lora-8", "lora-16", "prefix", "neck"), ids)
    asked["context"] = [*prompter.prefix, *rest]
    found = {}
    for name, prompt in asked.items():
        net = load_base(BASE, RUNTIME).net
        if name == "neck":
            method, tensors = read_method(folders[name])
            from sapwood.methods.folder import attach_trained

            attach_trained(net, method, tensors, where=name)
        elif name != BASE:
            folder = folders["lora-16" if name == "context" else name]
            net = PeftModel.from_pretrained(net, folder)
        said = say(net, prompt)
        found[name] = tokenizer.decode(said, skip_special_tokens=True)
    return found


@pytest.mark.weights(BASE)
@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")
def test_six_kinds_of_row_in_one_batch(folders: dict[str, Path]) -> None:
    wanted = alone(folders)
    assert len(set(wanted.values())) == 6, wanted
    pool = open_pool(BASE, folders, runtime=RUNTIME, slots=6)
    asker = Asker(pool)
    try:
        begun = {name: asker.begin(name, TEXT, sampling=Sampling(tokens=TOKENS)) for name in wanted}
        for name, updates in begun.items():
            (got,) = asker.end(updates)
            said = "".join(update.text for update in got)
            if name == "context":  # an answer under a context ends where the next example begins
                assert wanted[name].startswith(said) and said, (said, wanted[name])
            else:
                assert said == wanted[name], name
        together = pool.batch.tokens / pool.batch.steps
        assert together > 3, "they did not run together"
    finally:
        pool.stop(1)
