"""What users of other tools suffer when a model learns to answer, and cannot suffer here."""

import copy
import json

import pytest
import torch

from sapwood.context.answering import Answering, tokens_of
from sapwood.context.prompter import Context, Prompter
from sapwood.context.template import Template
from sapwood.errors import DataError
from sapwood.interfaces import Example, Turn
from sapwood.models.decoder import Decoder
from sapwood.tasks.supervised import check_coverage, check_marks, coverage
from sapwood.training.answers import AnswerSupervision, answer_targets

TEMPLATE = Template(instruction="", before="", between="\n")
# No {% generation %}, as in the stock templates of Llama 3.1, Qwen 3 and Gemma 3.
STOCK = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def chat_tokenizer(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", STOCK
    return tokenizer


def form(tokenizer, max_length=400, **settings):
    context = Context(template=TEMPLATE, max_text_tokens=400)
    return Answering(Prompter(tokenizer, context), max_length=max_length, **settings)


def covered(examples, made):
    return coverage([tokens_of(example, made) for example in examples], made.max_length)


def stories(count, answer="the end of it"):
    return [Example(text=f"story {n}", label=answer, row=n + 1) for n in range(count)]


def test_pain_8_the_mask_is_right_without_generation_marks_and_holds_the_stop_token(
    chat_tokenizer,
):
    """Megatron-Bridge 3359, marin 7237, TRL 4147 and 5988: all of the chat trained, or nothing."""
    talk = [("user", "hello"), ("assistant", "hi"), ("user", "so?"), ("assistant", "well")]
    turns = tuple(Turn(role=role, content=words) for role, words in talk)
    row = tokens_of(Example(text="", turns=turns, label="well"), form(chat_tokenizer))
    said = [chat_tokenizer.decode([row.ids[place]]) for place in row.learnt]
    assert "".join(said) == "hi<|im_end|>well<|im_end|>"
    assert row.learnt[0] > 0 and len(row.learnt) < len(row.ids) / 2


def test_pain_9_no_token_to_learn_is_said_before_training_not_divided_by(tiny_tokenizer):
    """unsloth 2900, 2117, 2199, 3041: "all labels are -100" raised as a ZeroDivisionError."""
    examples = [Example(text=f"story {n}", row=n + 1) for n in range(7)]
    found = covered(examples, form(tiny_tokenizer))
    with pytest.raises(DataError) as caught:
        check_coverage(found)
    assert str(caught.value) == (
        "E-MASK-002  No token of 7 rows would be learnt: there are no answers\n"
        "  \u2022 7 rows: no answer; left out (rows 1, 2, 3, 4, 5, ...)\n"
        "  Fix: name the column of the answers with --label"
    )
    assert found.share == 0.0
    with pytest.raises(DataError, match="E-MASK-002"):
        answer_targets([tokens_of(example, form(tiny_tokenizer)) for example in examples])
    with pytest.raises(DataError, match="E-MASK-002"):
        check_coverage(covered([], form(tiny_tokenizer)))


def test_pain_10_an_answer_eaten_by_the_limit_is_blamed_on_the_limit(chat_tokenizer):
    """unsloth 11321: the markers were right, truncation at 2048 ate the answer."""
    talk = (Turn(role="user", content="why? " * 20), Turn(role="assistant", content="well"))
    examples = [Example(text="", turns=talk, label="well", row=n + 1) for n in range(3)]
    found = covered(examples, form(chat_tokenizer, max_length=60))
    with pytest.raises(DataError) as caught:
        check_coverage(found)
    assert caught.value.code == "E-MASK-002"
    assert "truncation takes the answers away" in str(caught.value)
    assert f"(limit 60 tokens; longest {found.needs:,})" in caught.value.details[0]
    assert caught.value.fix == f"--max-length {found.needs} keeps every row whole"
    check_coverage(covered(examples, form(chat_tokenizer, max_length=found.needs)))


def test_pain_11_what_truncation_takes_is_counted_by_side_and_blocks_beyond_a_tenth(
    tiny_tokenizer,
):
    """LlamaFactory 3995: "get a bad result, and have zero idea why"."""
    examples = stories(20)
    examples[4] = Example(text="story", label="z" * 90, row=5)
    examples[9] = Example(text="word " * 15, label="so", row=10)
    found = covered(examples, form(tiny_tokenizer, max_length=60))
    assert (found.cut, found.right, found.left) == ((5,), (10,), ())
    check_coverage(found)  # one row of twenty is said, and no reason to stop
    limit = f"(limit 60 tokens; longest {found.needs})"
    cut, right = found.problems()
    assert cut == (f"1 row: answer cut by truncation {limit}; kept, its end is not learnt (row 5)")
    assert right == f"1 row: text cut from the right {limit} (row 10)"
    examples[6:8] = [Example(text="story", label="z" * 10 * n, row=n) for n in (7, 8)]
    found = covered(examples, form(tiny_tokenizer, max_length=60))
    with pytest.raises(DataError) as caught:
        check_coverage(found)
    assert caught.value.code == "E-MASK-003"
    assert "Truncation damages the answers of 3 of 20 rows" in str(caught.value)
    assert "(rows 5, 7, 8)" in caught.value.details[0]
    assert f"--max-length {found.needs} keeps every row whole" in caught.value.fix
    assert f"--max-length {found.most} nine in ten" in caught.value.fix


def test_pain_12_the_end_is_learnt_even_where_it_is_the_padding_too(tiny_tokenizer):
    """TRL 1623, unsloth 416: pad = eos is masked, or no end is added, and the model never stops."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    row = tokens_of(stories(1)[0], form(tokenizer))
    assert row.ids[row.learnt[-1]] == tokenizer.eos_token_id and row.ended == 1
    _, (target,) = answer_targets([row])
    assert target.answers[-1] == tokenizer.eos_token_id


def test_pain_12_a_base_that_would_never_stop_is_refused(tiny_tokenizer, chat_tokenizer):
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.chat_template = STOCK.replace("<|im_end|>\n", "\n")
    talk = (Turn(role="user", content="so?"), Turn(role="assistant", content="well"))
    examples = [Example(text="", turns=talk, label="well", row=n + 1) for n in range(3)]
    with pytest.raises(DataError) as caught:
        check_coverage(covered(examples, form(tokenizer)))
    assert str(caught.value).startswith(
        "E-MASK-004  No answer of 3 rows is learnt to its end: the model would never stop\n"
        "  \u2022 no token that ends an answer follows any of them\n"
    )
    assert "a chat template that closes the assistant's turns" in caught.value.fix
    endless = copy.deepcopy(tiny_tokenizer)
    endless.eos_token = None
    with pytest.raises(DataError, match="E-MASK-004"):
        check_coverage(covered(stories(3), form(endless)))


def test_pain_15_texts_rendered_for_another_base_are_refused(tiny_tokenizer, chat_tokenizer):
    """LlamaFactory 6736: a Qwen base trained with template llama3, and nothing objects."""
    rendered = "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    examples = [Example(text=rendered, label="hello", row=n + 1) for n in range(8)]
    known = chat_tokenizer.get_vocab()
    with pytest.raises(DataError) as caught:
        check_marks(examples, known, templated=False, name="qwen")
    assert caught.value.code == "E-TPL-001"
    assert "control tokens of a chat template, in 8 rows of 8" in str(caught.value)
    assert (
        "8 rows: '<|eot_id|>' of Llama 3 is no token of qwen: it would be read letter by letter "
        "(rows 1, 2, 3, 4, 5, ...)" in caught.value.details
    )
    assert "messages: [{role, content}, ...]" in caught.value.fix


def test_pain_15_a_template_is_not_put_around_itself(chat_tokenizer):
    talk = (Turn(role="user", content="<|im_start|>user\nso?"), Turn(role="assistant", content="a"))
    examples = [Example(text="", turns=talk, label="a", row=n + 1) for n in range(4)]
    known = chat_tokenizer.get_vocab()
    with pytest.raises(DataError, match="the template of qwen writes it again"):
        check_marks(examples, known, templated=True, name="qwen")
    # rendered for this base and read as it is: nothing is wrong
    assert check_marks(examples, known, templated=False, name="qwen") == ()
    # one text in a hundred that speaks about such a token is told, and trained
    many = [*stories(99), Example(text="what is [/INST] for?", label="an end", row=100)]
    (note,) = check_marks(many, known, templated=False, name="qwen")
    assert note.startswith("1 row: '[/INST]' of Llama 2 and Mistral is no token of qwen")


def test_pain_16_a_step_cut_into_packs_has_the_loss_of_one_batch(tiny_net, tiny_tokenizer):
    """transformers 34191, 37197, TRL 2175: the mean of means of batches of unequal answers."""
    examples = [Example(text="story", label="so " * n, row=n) for n in (1, 2, 12, 30)]
    rows = [tokens_of(example, form(tiny_tokenizer)) for example in examples]
    shared, targets = answer_targets(rows)
    net = tiny_net("llama")
    supervision = AnswerSupervision(Decoder(net), targets, shared=shared)
    each = [
        net(
            input_ids=torch.tensor([row.ids]),
            labels=torch.tensor([[t if n in row.learnt else -100 for n, t in enumerate(row.ids)]]),
        ).loss
        for row in rows
    ]
    counts = [len(row.learnt) for row in rows]
    wanted = sum(float(e) * c for e, c in zip(each, counts, strict=True)) / sum(counts)
    for budget in (10_000, 40, 1):
        parts = [float(part) for part, _ in supervision.losses(range(4), budget)]
        assert sum(parts) / supervision.supervised(range(4)) == pytest.approx(wanted, abs=1e-5)
    assert abs(sum(map(float, each)) / 4 - wanted) > 1e-3  # the mean of means is another number


def test_pains_8_to_15_are_seen_before_a_run(sapwood, small_base, write_rows, tmp_path):
    """`sapwood data show --tokens` prints what is learnt, exactly, and refuses what a run would."""
    data = write_rows(
        tmp_path / "d.csv", [("great film", "positive"), ("dull play", "negative")] * 9
    )
    given = ("data", "show", data, "--task", "classification", "--label", "label", "--tokens")
    ran = sapwood(*given, "--model", small_base, "-n", 1)
    assert ran.code == 0
    assert ran.out.startswith("row 1  ") and "Sentiment:[[ positive<eos>]]\n" in ran.out
    assert "in 18 rows; 18 of 18 answers to their end" in ran.out
    lines = [
        json.loads(line)
        for line in sapwood(*given, "--model", small_base, "--json").out.splitlines()
    ]
    assert [line.get("row") for line in lines] == [1, 2, 3, None]
    assert lines[0]["pieces"][-1] == {"text": " positive<eos>", "learnt": True}
    assert lines[-1]["all"]["ended"] == 18
    share = lines[-1]["all"]["learnt"] / lines[-1]["all"]["tokens"]
    assert lines[-1]["all"]["share"] == pytest.approx(share, abs=1e-4)
    short = sapwood(*given, "--model", small_base, "--max-length", 20)
    assert short.code == 3 and "E-MASK-002" in short.err and "--max-length" in short.err
