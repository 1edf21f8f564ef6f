"""Every answer that a grammar lets through parses, and all its words are words of the text."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from sapwood.errors import DataError
from sapwood.interfaces import Frame, Schema, Span
from sapwood.models.decoder import Decoder
from sapwood.models.generate import Sampling, generate
from sapwood.models.grammar import Guides
from sapwood.tasks.grammars import chunks, grammar
from sapwood.tasks.written import canonical, parse, write
from sapwood.testing import tiny_net

TASKS = ("entities", "relations", "events", "multi-label", "classification", "pairs")
# Emoji with joiners, combining marks, Chinese, Arabic and Hebrew (right to left), quotes, breaks.
PIECES = [
    "Ann", " ", " ", " ", "Rome", "the", ".", ", ", "42", '"', "\\", ";", ":", "(", ")", "#1", "\n",
    "é", "e\u0301", "👩\u200d👩\u200d👧", "🇫🇷", "✌🏽", "东京", "京", "，", "“", "سلام", "\u200f",
    "שלום", "क\u093f", "\U0001d4b3", "ﬁ", "\u2028", "\u0085", "\t", "\r\n", "none", "co-op",
]  # fmt: skip
LABELS = [
    "PER", "ORG", "none", " x ", "a;b", 'a"b', "org:founded_by", "人生-产子/女", "#2", "\\", "a",
    "Cause-Effect(e1,e2)", "attack", "attack / bombing", "a: b", "x:", "b c", "(",
    "né", "👩\u200d👧",
]  # fmt: skip
TOKENS = 40  # an answer that needs more is cut, and must be told from a whole one


def drawn(rng, task):
    """Return a random (text, schema) of a task."""
    text = "".join(rng.choice(PIECES, rng.integers(1, 14)))
    types = tuple(map(str, rng.choice(LABELS, rng.integers(1, 5), replace=False)))
    roles = {}
    if task == "events":
        for label in types:
            some = rng.choice(LABELS, rng.integers(0, 3), replace=False)
            roles |= {label: tuple(map(str, some))} if len(some) else {}
    return text, Schema(types=types, roles=roles, heads=bool(rng.integers(4)))


def check(task, text, schema, words, stopped):
    """Assert what must hold of one answer; return the number of its frames."""
    if task in ("classification", "pairs"):
        assert not stopped or words.strip() in {label.strip() for label in schema.types}
        return 1
    if not stopped:
        found = parse(task, text, words.strip())
    else:
        found = parse(task, text, words.strip(), strict=True)
        # what was read is written again as an answer that says the same
        assert parse(task, text, write(task, text, found), strict=True) == found
        assert canonical(task, found) == found
    for frame in found:
        assert frame.label in schema.types or not stopped
        assert not stopped or (frame.head is not None) == (task != "multi-label" and schema.heads) \
            or task in ("entities", "relations")  # fmt: skip
        for span in (frame.head, *frame.arguments):
            assert span is None or text[span.start : span.end].strip()
        if task == "events" and stopped:
            assert {a.label for a in frame.arguments} <= set(schema.roles.get(frame.label, ()))
    return len(found)


def answers(tokenizer, decoder, guides, asked, seed):
    """Return (words, whether it ended by itself) of an answer to each (task, text, schema)."""
    prompts = [tokenizer(text, verbose=False)["input_ids"][:6] or [5] for _, text, _ in asked]
    made = generate(
        decoder,
        prompts,
        sampling=Sampling(tokens=TOKENS, temperature=1.0, seed=seed,
                          stop_ids=(tokenizer.eos_token_id,)),
        guides=[guides.guide(grammar(task, text, schema)) for task, text, schema in asked],
    )  # fmt: skip
    return [(tokenizer.decode(one[0].ids), one[0].stopped) for one in made]


def run(tokenizer, count, seed=0):
    """Return (answers that ended, answers cut, frames) of `count` random prompts."""
    tokenizer = copy.deepcopy(tokenizer)
    decoder = Decoder(tiny_net("llama"))
    guides = Guides(tokenizer, 300, [tokenizer.eos_token_id])
    rng = np.random.default_rng(seed)
    whole = cut = frames = 0
    for first in range(0, count, 200):
        tasks = [TASKS[n % len(TASKS)] for n in range(min(200, count - first))]
        asked = [(task, *drawn(rng, task)) for task in tasks]
        for one, (words, stopped) in zip(
            asked, answers(tokenizer, decoder, guides, asked, seed + first), strict=True
        ):
            frames += check(*one, words, stopped)
            whole, cut = whole + stopped, cut + (not stopped)
    return whole, cut, frames


def test_every_whole_answer_parses_and_aligns(tiny_tokenizer):
    whole, cut, frames = run(tiny_tokenizer, 600)
    assert whole + cut == 600
    assert whole > 200  # so that it says something, of both kinds
    assert cut > 20
    assert frames > 200


@pytest.mark.slow
def test_ten_thousand_answers_parse_and_align(tiny_tokenizer):
    whole, cut, frames = run(tiny_tokenizer, 10_000, seed=1)
    assert whole + cut == 10_000
    assert whole > 3_000
    assert frames > 3_000


def matches(tokenizer, guides, text, words):
    """Tell whether a grammar takes exactly these words and may end after them."""
    guide = guides.guide(text)
    for token in [*tokenizer(words)["input_ids"], tokenizer.eos_token_id]:
        bits = np.zeros((1, 10), np.int32)
        guide.allow(bits, 0)
        if not bits.view(np.uint8)[0][token // 8] >> (token % 8) & 1:
            return False
        guide.take(token)
    return True


TEXT = 'Ann "A" sold her boat in 东京\nto Bo, Ann said'


def frame(label, head=None, *arguments):
    made = None if head is None else Span(start=head[0], end=head[1], label=label)
    spans = tuple(Span(start=a, end=b, label=role) for a, b, role in arguments)
    return Frame(label=label, head=made, arguments=spans)


FRAMES = {
    "entities": [frame("PER", (0, 3)), frame("a;b", (4, 7)), frame("PER", (35, 38))],
    "relations": [
        frame("has", (0, 3), (17, 21, "")), frame("org:x", (25, 27), (31, 33, "")),
    ],
    "events": [frame("sale", (8, 12), (0, 3, "who"), (17, 21, "x:")), frame("talk", (39, 43))],
    "multi-label": [frame("PER"), frame("none"), frame("a;b")],
}  # fmt: skip


@pytest.mark.parametrize("task", FRAMES)
def test_what_demonstrations_show_may_be_written(task, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    guides = Guides(tokenizer, 300, [tokenizer.eos_token_id])
    roles = {f.label: tuple(a.label for a in f.arguments) for f in FRAMES[task] if f.arguments}
    types = tuple(dict.fromkeys(f.label for f in FRAMES[task]))
    made = grammar(task, TEXT, Schema(types=types, roles=roles))
    words = write(task, TEXT, FRAMES[task])
    for spelt in (words, f" {words}", f"{words}\n\n", "none"):
        assert matches(tokenizer, guides, made, spelt), spelt
    assert not matches(tokenizer, guides, made, words + "; and so on")
    assert not matches(tokenizer, guides, made, words.replace("PER", "PLACE", 1) + "x")
    if task != "multi-label":
        plain = grammar(task, TEXT, Schema(types=types, roles=roles), marks=False)
        assert "#" not in words or not matches(tokenizer, guides, plain, words)


def test_words_begin_and_end_where_words_do(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    guides = Guides(tokenizer, 300, [tokenizer.eos_token_id])
    made = grammar("entities", "Annie met 李明\n\\n", Schema(types=("P",)))
    for words, right in (
        ('P: "Annie"', True), ('P: "Annie met"', True), ('P: "李"', True), ('P: "met 李"', True),
        ('P: "Ann"', False), ('P: "Annie "', False), ('P: ""', False), ('P: "Bo"', False),
        ('Q: "Annie"', False),
        ('P: "\\n"', False), ('P: "李明\\n"', False), ('P: "\\\\n"', True),
        ('P: "Annie"; P: "met"', True),
    ):  # fmt: skip
        assert matches(tokenizer, guides, made, words) is right, words


@pytest.mark.parametrize(
    ("task", "text", "schema", "only"),
    [
        ("entities", "Ann", Schema(types=()), "none"),
        ("entities", " \n", Schema(types=("P",)), "none"),
        ("events", " \n", Schema(types=("P",), heads=False), "P"),
    ],
)
def test_where_there_is_nothing_to_quote(task, text, schema, only, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    guides = Guides(tokenizer, 300, [tokenizer.eos_token_id])
    made = grammar(task, text, schema)
    assert matches(tokenizer, guides, made, only)
    assert not matches(tokenizer, guides, made, 'P: "Ann"')


def test_chunks_are_the_text():
    for text in ("In 东京, no-one", "e\u0301te\u0301 👩\u200d👧", "", 'a "b"\n'):
        assert "".join(chunks(text)) == text
    assert chunks("e\u0301te\u0301") == ["e\u0301te\u0301"]


def test_free_answers_have_no_grammar():
    assert grammar("story", "Once", Schema(types=())) == ""


def test_a_cut_answer_is_no_whole_one():
    text = "Ann met Bo"
    whole = 'PER: "Ann"; PER: "Bo"'
    for length in range(1, len(whole)):
        found = parse("entities", text, whole[:length])
        assert {(f.head.start, f.head.end) for f in found} <= {(0, 3), (8, 10)}
    with pytest.raises(DataError, match="no answer of entities"):
        parse("entities", text, whole[:-1], strict=True)
    assert json.dumps([f.label for f in parse("entities", text, whole[:-1])]) == '["PER"]'
