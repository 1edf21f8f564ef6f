"""The tagger: what it answers, against an encoder that knows, and after training a tiny one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.evaluation.tagger import Tagger, place_of
from sapwood.interfaces import Example, Frame, Schema, Span
from sapwood.methods.full import Full
from sapwood.models.encoder import Encoder
from sapwood.readouts.scheme import said
from sapwood.readouts.tags import Tags
from sapwood.testing import tiny_net
from sapwood.training import Recipe, fit, head_weights, make_optimiser
from sapwood.training.tagging import TaggingSupervision, TrainedTags, choose_scheme, tagging_rows

NAMES = ["Ann", "李先生", "שלום", "👩\u200d👩\u200d👧", "e\u0301te\u0301", "co-op", "U.S.", "北京"]


def schema_of(examples, heads=True):
    roles = {}
    for example in examples:
        for frame in example.frames:
            roles.setdefault(frame.label, set()).update(span.label for span in frame.arguments)
    return Schema(
        types=tuple(sorted(roles)),
        roles={label: tuple(sorted(own)) for label, own in roles.items() if own},
        heads=heads,
    )


class Knowing(Tagger):
    """A tagger whose encoder gives the gold tags of `known`, by text."""

    known: dict[str, Example]

    def _logits(self, texts, questions):
        scheme = self.readout.scheme
        found = super()._logits(texts, questions)  # the windows must fit all the same
        for logits, text, question in zip(found, texts, questions, strict=True):
            logits[:] = 0
            logits[:, 0] = 20
            example = self.known[text.text]
            answers = dict(said(example, scheme.relations, bool(scheme.heads)))
            kinds = scheme.heads if question is None else scheme.asked[question.label]
            for place, meanings in answers.get(question, {}).items():
                first, end = text.exact(*place)
                kind = scheme.kind_of(meanings, kinds)
                logits[first, scheme.tags.index(f"B-{kind}")] = 40
                for unit in range(first + 1, end):
                    logits[unit, scheme.tags.index(f"I-{kind}")] = 40
        return found


@st.composite
def documents(draw, relations=False, heads=True):
    """Return an example whose frames hang on names, one label a name."""
    text, spans = "", []
    for _ in range(draw(st.integers(1, 12))):
        name = " ".join(draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2)))
        spans.append((len(text), len(text) + len(name)))
        text += name + draw(st.sampled_from([" ", ", ", "。", "\n"]))
    frames = []
    order = draw(st.permutations(range(len(spans))))
    for n, place in enumerate(order[: draw(st.integers(0, min(4, len(spans))))]):
        label = "ab"[n % 2]
        others = [spans[k] for k in order if k != place][: draw(st.integers(0, 3))]
        role = "r" + label
        arguments = tuple(sorted(Span(start=s, end=e, label=role) for s, e in others))
        head = Span(start=spans[place][0], end=spans[place][1], label="h" if relations else label)
        if relations:
            frames += [Frame(label=label, head=head, arguments=(one,)) for one in arguments]
        elif heads:
            frames.append(Frame(label=label, head=head, arguments=arguments))
        elif arguments and n < 2:
            frames.append(Frame(label=label, arguments=arguments))
    return Example(text=text, row=1, frames=tuple(sorted(frames, key=place_of)))


@given(data=st.data(), kind=st.sampled_from(["events", "relations", "without triggers"]))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("tokens", ["wordpieces", "bytes"])
def test_what_the_tags_say_comes_back_exactly(tokens, data, kind, tiny_wordpieces, tiny_tokenizer):
    tokenizer = tiny_wordpieces if tokens == "wordpieces" else tiny_tokenizer
    relations, heads = kind == "relations", kind != "without triggers"
    examples = [data.draw(documents(relations=relations, heads=heads)) for _ in range(3)]
    everything = "Ann Bo"
    seed = [
        Frame(label=label, head=Span(start=0, end=3, label="h" if relations else label)
              if heads else None, arguments=(Span(start=4, end=6, label="r" + label),))
        for label in "ab"
    ]  # fmt: skip
    rows = [*examples, *(Example(text=everything, row=9, frames=(frame,)) for frame in seed)]
    scheme = choose_scheme(
        tokenizer, rows, schema_of(rows, heads), max_length=64, relations=relations
    )
    tagger = Knowing(Encoder(tiny_net("bert")), tokenizer, Tags.start(scheme, 32), max_length=64)
    tagger.known = {example.text: example for example in examples}
    texts = [example.text for example in examples]
    for text, answer in zip(texts, tagger.answers(texts), strict=True):
        wanted = tagger.known[text].frames
        assert answer.frames == tuple(sorted(wanted, key=place_of))
        assert len(set(answer.frames)) == len(answer.frames)
    assert all(p > 0.9 for tagged in tagger.read(texts) for p in tagged.probabilities)


def sales(count: int = 32) -> list[Example]:
    """Return texts in which `sold` and `gave` are events, their arguments on either side."""
    examples = []
    for row in range(count):
        giver, taker = ("ann", "lee") if row % 3 else ("lee 3", "ann")
        verb, label = (("sold", "sale"), ("gave", "gift"))[row % 2]
        text = f"the {giver} {verb} it to {taker}"
        at = text.index(verb)
        head = Span(start=at, end=at + 4, label=label)
        arguments = (
            Span(start=4, end=4 + len(giver), label="from"),
            Span(start=len(text) - len(taker), end=len(text), label="to"),
        )
        frames = (Frame(label=label, head=head, arguments=arguments),)
        if row % 5 == 0:
            text, frames = f"the {giver} is on {taker}", ()
        examples.append(Example(text=text, row=row + 1, frames=frames))
    return examples


def ties(count: int = 36) -> list[Example]:
    """Return texts that say who is on and who is in what: two relations, some with one head."""
    examples = []
    for row in range(count):
        who, first, second = ("ann", "lee", "ted")[row % 3], "the inn", "the den"
        text, places = f"{who} is on {first}", [("on", first)]
        if row % 2:
            text, places = f"{text} and is in {second}", [*places, ("in", second)]
        head = Span(start=0, end=3, label="person")
        frames = []
        for label, words in places:
            start = text.index(words)
            tail = Span(start=start, end=start + len(words), label="place")
            frames.append(Frame(label=label, head=head, arguments=(tail,)))
        if row % 7 == 0:
            text, frames = f"{first} is {second}", []
        examples.append(Example(text=text, row=row + 1, frames=tuple(sorted(frames, key=place_of))))
    return examples


def tuned(tokenizer, examples, *, relations=False):
    """Return (encoder, tags) of a tiny net that was tuned on these examples."""
    scheme = choose_scheme(
        tokenizer, examples, schema_of(examples), max_length=64, relations=relations
    )
    made = tagging_rows(tokenizer, examples, scheme, max_length=64)
    net = tiny_net("bert", seed=3)
    for name, tensor in net.named_parameters():
        if "LayerNorm" in name:
            tensor.data.fill_(float(name.endswith("weight")))
    Full().attach(net, seed=0)
    head = TrainedTags(Tags.start(scheme, 32, transitions="learnt"))
    weights = head_weights(net, head)
    recipe = Recipe(learning_rate=3e-3, batch_size=16, epochs=60)
    supervision = TaggingSupervision(Encoder(net), made.rows, head)
    optimiser = make_optimiser(list(weights.values()), recipe)
    for _ in fit(supervision, optimiser, recipe, total=recipe.steps(len(supervision))):
        pass
    return Encoder(net), head.readout()


@pytest.fixture(scope="module")
def trained(tiny_wordpieces):
    """Return (encoder, tags) of a tiny net that was tuned on sales."""
    return tuned(tiny_wordpieces, sales())


def test_a_tiny_net_learns_relations_with_the_types_of_their_ends(tiny_wordpieces):
    encoder, readout = tuned(tiny_wordpieces, ties(), relations=True)
    tagger = Tagger(encoder, tiny_wordpieces, readout, max_length=64)
    examples = ties()
    answers = tagger.answers([example.text for example in examples])
    right = sum(
        answer.frames == example.frames for answer, example in zip(answers, examples, strict=True)
    )
    assert right >= 0.9 * len(examples)


def test_a_tiny_net_learns_events_of_both_stages(trained, tiny_wordpieces):
    encoder, readout = trained
    tagger = Tagger(encoder, tiny_wordpieces, readout, max_length=64)
    examples = sales()
    answers = tagger.answers([example.text for example in examples])
    right = sum(
        answer.frames == example.frames for answer, example in zip(answers, examples, strict=True)
    )
    assert right >= 0.9 * len(examples)
    assert tagger.tokens > 0


def test_texts_are_answered_each_by_itself(trained, tiny_wordpieces):
    encoder, readout = trained
    tagger = Tagger(encoder, tiny_wordpieces, readout, max_length=64)
    texts = ["", "the ann sold it to lee", "🎉", " \n", "the lee 3 gave it to ann"]
    together = tagger.read(texts)
    for text, tagged in zip(texts, together, strict=True):
        (alone,) = tagger.read([text])
        assert alone.frames == tagged.frames
        assert alone.probabilities == pytest.approx(tagged.probabilities, abs=1e-4)
    assert tagger.answers([]) == []
    assert together[0].frames == together[3].frames == ()


def test_frames_less_probable_than_the_threshold_are_left_out(trained, tiny_wordpieces):
    encoder, readout = trained
    texts = [example.text for example in sales()]
    (*_, sure) = sorted(
        p for tagged in Tagger(encoder, tiny_wordpieces, readout, max_length=64).read(texts)
        for p in tagged.probabilities
    )  # fmt: skip
    tagger = Tagger(encoder, tiny_wordpieces, readout, max_length=64, threshold=sure)
    kept = [frame for answer in tagger.answers(texts) for frame in answer.frames]
    assert 0 < len(kept) < len([e for e in sales() if e.frames])
    none = Tagger(encoder, tiny_wordpieces, readout, max_length=64, threshold=1.1)
    assert not any(answer.frames for answer in none.answers(texts))


def test_long_texts_lose_nothing(trained, tiny_wordpieces):
    """A text of many windows is answered at every place that a window could have cut."""
    encoder, readout = trained
    tagger = Tagger(encoder, tiny_wordpieces, readout, max_length=64)
    text = " is on the town. ".join(["the ann sold it to lee"] * 40)
    (pieced,) = tagger.framing.pieced([text])
    with torch.no_grad():
        logits = tagger._logits([pieced], [None])[0]
    assert len(pieced.ids) > 10 * 64
    assert (logits.abs().sum(1) > 0).all()
    (answer,) = tagger.answers([text])
    spans = [frame.head for frame in answer.frames if frame.head]
    assert spans == sorted(spans)
