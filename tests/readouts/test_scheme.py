"""Schemes: what is asked, what tags stand for, and frames that come back as they were."""

from __future__ import annotations

import json

from sapwood.interfaces import Example, Frame, Schema, Span
from sapwood.readouts.scheme import Question, Scheme, said

TEXT = "Ann sold Bo a boat"
SALE = Frame(
    label="sale",
    head=Span(start=4, end=8, label="sale"),
    arguments=(Span(start=0, end=3, label="seller"), Span(start=14, end=18, label="goods")),
)
GIFT = Frame(
    label="gift",
    head=Span(start=4, end=8, label="gift"),
    arguments=(Span(start=9, end=11, label="taker"),),
)


def example(*frames: Frame) -> Example:
    return Example(text=TEXT, row=1, frames=frames)


def schema(*frames: Frame, heads: bool = True) -> Schema:
    roles = {frame.label: {span.label for span in frame.arguments} for frame in frames}
    return Schema(
        types=tuple(sorted(roles)),
        roles={label: tuple(sorted(own)) for label, own in roles.items() if own},
        heads=heads,
    )


def returned(scheme: Scheme, given: Example) -> list[Frame]:
    """Return the frames of a perfect answer to every question that the scheme asks."""
    answers = dict(said(given, scheme.relations, bool(scheme.heads)))
    frames = []
    if not scheme.heads:
        for question in scheme.first_questions():
            assert question is not None
            kinds = scheme.asked[question.label]
            marked = [(*place, scheme.kind_of(meant, kinds))
                      for place, meant in answers.get(question, {}).items()]  # fmt: skip
            frames += scheme.filled(Frame(label=question.label), marked)
        return frames
    for (start, end), meant in answers[None].items():
        for question, frame in scheme.questions(start, end, scheme.kind_of(meant, scheme.heads)):
            kinds = scheme.asked.get(question.label, ())
            marked = [(*place, scheme.kind_of(own, kinds))
                      for place, own in answers.get(question, {}).items()]  # fmt: skip
            frames += scheme.filled(frame, marked)
    return frames


def test_entities_are_found_in_one_stage():
    ann = Frame(label="person", head=Span(start=0, end=3, label="person"))
    scheme = Scheme.of([example(ann)], schema(ann))
    assert scheme.heads == ("person",)
    assert scheme.asked == {}
    assert scheme.tags == ("O", "B-person", "I-person")
    assert scheme.allowed(None) == (0, 1, 2)
    assert returned(scheme, example(ann)) == [ann]


def test_events_are_asked_for_their_arguments():
    scheme = Scheme.of([example(SALE)], schema(SALE))
    assert scheme.tags == (
        "O",
        "B-sale",
        "I-sale",
        "B->goods",
        "I->goods",
        "B->seller",
        "I->seller",
    )
    assert scheme.allowed(Question(label="sale", head=SALE.head)) == (0, 3, 4, 5, 6)
    assert Question(label="sale", head=SALE.head).words(TEXT) == "sale: sold"
    assert returned(scheme, example(SALE)) == [SALE]


def test_a_trigger_of_two_events_is_a_kind_of_its_own_where_it_is_common():
    both = example(SALE, GIFT)
    scheme = Scheme.of([both] * 3, schema(SALE, GIFT))
    assert "gift + sale" in scheme.heads
    assert returned(scheme, both) == [GIFT, SALE]
    rare = Scheme.of([both], schema(SALE, GIFT))
    assert rare.heads == ("gift", "sale")
    assert returned(rare, both) == [GIFT]


def test_an_argument_in_two_roles_comes_back_in_both():
    ann = Span(start=0, end=3, label="seller")
    twice = Frame(
        label="sale", head=SALE.head, arguments=(ann, Span(start=0, end=3, label="witness"))
    )
    scheme = Scheme.of([example(twice)] * 3, schema(twice))
    assert returned(scheme, example(twice)) == [twice]


def test_relations_keep_the_types_of_their_ends():
    ann, bo = Span(start=0, end=3, label="person"), Span(start=9, end=11, label="person")
    boat = Span(start=14, end=18, label="thing")
    frames = [
        Frame(label="knows", head=ann, arguments=(bo,)),
        Frame(label="sells", head=ann, arguments=(boat,)),
        Frame(label="owns", head=bo, arguments=(boat,)),
    ]
    scheme = Scheme.of([example(*frames)], schema(*frames), relations=True)
    assert scheme.heads == ("person",)
    found = returned(scheme, example(*frames))
    assert sorted(found, key=repr) == sorted(frames, key=repr)


def test_bare_relations_have_a_kind_for_their_heads():
    knows = Frame(label="knows", head=Span(start=0, end=3), arguments=(Span(start=9, end=11),))
    scheme = Scheme.of([example(knows)], schema(knows), relations=True)
    assert scheme.tags == ("O", "B-words", "I-words", "B->knows", "I->knows")
    assert Question(label="", head=knows.head).words(TEXT) == "Ann"
    assert returned(scheme, example(knows)) == [knows]


def test_events_without_triggers_are_asked_for_by_type():
    sale = Frame(label="sale", arguments=SALE.arguments)
    gift = Frame(label="gift", arguments=GIFT.arguments)
    scheme = Scheme.of([example(sale, gift)], schema(sale, gift, heads=False))
    assert scheme.heads == ()
    assert scheme.first_questions() == (Question(label="gift"), Question(label="sale"))
    assert returned(scheme, example(sale)) == [sale]  # no arguments, no event
    assert returned(scheme, example()) == []


def test_a_type_named_like_a_role_is_another_kind():
    frame = Frame(
        label="goods",
        head=Span(start=4, end=8, label="goods"),
        arguments=(Span(start=14, end=18, label="goods"),),
    )
    scheme = Scheme.of([example(frame)], schema(frame))
    assert len(set(scheme.tags)) == 5
    assert returned(scheme, example(frame)) == [frame]


def test_a_scheme_comes_back_from_json():
    scheme = Scheme.of([example(SALE, GIFT)] * 3, schema(SALE, GIFT), pieces=True)
    assert Scheme.from_state(json.loads(json.dumps(scheme.state()))) == scheme
