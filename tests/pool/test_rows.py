"""What a row says is what its adaptation says alone, whoever sits beside it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pool.conftest import METHODS, RUNTIME, attach

from sapwood.context.turns import end_ids, render
from sapwood.interfaces import Turn
from sapwood.methods import parts
from sapwood.models.choosing import Sampling
from sapwood.models.load import load_base

TEXTS = ("the plot of this film", "a", "once upon a time there was a town by the sea", "good good")
EVERY = ("", *METHODS)


@pytest.fixture(scope="session")
def alone(small_base: Path):
    """What transformers' own greedy `generate` says under one method alone, as token ids."""
    base = load_base(str(small_base), RUNTIME)
    base.net.set_attn_implementation("sdpa")
    ends = end_ids(base.tokenizer, base.net.generation_config.eos_token_id)

    @cache
    def say(name: str, text: str, tokens: int) -> str:
        from sapwood.models.decoder import Decoder
        from sapwood.models.generate import generate

        ids = base.tokenizer(text)["input_ids"]
        if name in ("prefix", "prompt", "both"):  # no method of transformers: our own, one row
            attach(base.net, name)
            own = [*getattr(base.net, "virtual_tokens", NONE).ids, *ids]
            sampling = Sampling(tokens=tokens, stop_ids=ends)
            said = generate(Decoder(base.net), [own], sampling=sampling)[0][0].ids
            parts.detach(base.net)
            base.net.set_attn_implementation("sdpa")
        else:
            if name:
                attach(base.net, name)
            out = base.net.generate(
                torch.tensor([ids]), max_new_tokens=tokens, do_sample=False,
                eos_token_id=list(ends), pad_token_id=0,
            )[0, len(ids):]  # fmt: skip
            said = [int(n) for n in out if int(n) not in ends]
            parts.detach(base.net)
        return base.tokenizer.decode(said, skip_special_tokens=True)

    return say


class NONE:
    ids = ()


@pytest.mark.parametrize("name", EVERY)
def test_each_adaptation_alone_says_what_it_says_elsewhere(asker, alone, name: str) -> None:
    model = name or asker.pool.base
    for text in TEXTS:
        assert asker.say(model, text, sampling=Sampling(tokens=12)) == alone(name, text, 12)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_mix_of_adaptations_says_what_each_says_alone(asker, alone, data) -> None:
    asked = data.draw(
        st.lists(
            st.tuples(st.sampled_from(EVERY), st.sampled_from(TEXTS), st.integers(1, 14)),
            min_size=2, max_size=10,
        )
    )  # fmt: skip
    begun = [
        asker.begin(name or asker.pool.base, text, sampling=Sampling(tokens=tokens))
        for name, text, tokens in asked
    ]
    for (name, text, tokens), updates in zip(asked, begun, strict=True):
        (got,) = asker.end(updates)
        assert "".join(update.text for update in got) == alone(name, text, tokens), name


def test_draws_depend_on_the_seed_alone(asker) -> None:
    drawn = Sampling(tokens=12, temperature=1.0, seed=5, samples=2)
    updates = asker.end(asker.begin("lora-8", TEXTS[0], sampling=drawn), samples=2)
    quiet = ["".join(u.text for u in own) for own in updates]
    beside = [asker.begin(name or asker.pool.base, TEXTS[2]) for name in EVERY]
    updates = asker.end(asker.begin("lora-8", TEXTS[0], sampling=drawn), samples=2)
    assert ["".join(u.text for u in own) for own in updates] == quiet
    assert quiet[0] != quiet[1]
    for other in beside:
        asker.end(other)


def test_adaptations_differ(asker) -> None:
    said = {name: asker.say(name or asker.pool.base, TEXTS[0]) for name in EVERY}
    assert len(set(said.values())) >= len(EVERY) - 1, said


def test_tokens_and_logs_are_told(asker) -> None:
    (updates,) = asker.end(asker.begin("prefix", TEXTS[0], top=3))
    last = updates[-1]
    assert (last.tokens, last.finish) == (8, "length")
    assert last.prompt == 7 + len(asker.pool.prompts.plain(TEXTS[0]))
    assert last.cached == 7
    logs = [log for update in updates for log in update.logs]
    assert len(logs) == 8
    for log in logs:
        assert len(log.top) == 3
        assert log.log_probability == pytest.approx(log.top[0][1], abs=1e-4)  # greedy
        assert sorted(log.top, key=lambda pair: -pair[1]) == list(log.top)


def test_answers_follow_a_schema(asker) -> None:
    import json

    number = {"type": "integer", "minimum": 0, "maximum": 99}
    properties = {"a": number, "b": {"enum": ["x", "y"]}}
    schema = json.dumps({"type": "object", "properties": properties, "required": ["a", "b"],
                         "additionalProperties": False})  # fmt: skip
    for name in EVERY[:4]:
        said = asker.say(name or asker.pool.base, "{", schema=schema,
                         sampling=Sampling(tokens=120))  # fmt: skip
        found = json.loads(said)
        assert set(found) == {"a", "b"}
        assert found["b"] in "xy"


def test_conversations_go_through_the_template(asker, small_base: Path) -> None:
    turns = (Turn(role="user", content="good?"),)
    tokenizer = asker.pool.prompts.tokenizer
    ids = tokenizer(render(tokenizer, turns, ask=True))["input_ids"]
    said = asker.say("lora-8", turns=turns)
    assert said == asker.say("lora-8", ids=tuple(ids))
