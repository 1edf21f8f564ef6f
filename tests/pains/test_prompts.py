"""What users of other tools suffer with prompts and their scores, and cannot suffer here."""

import tracemalloc

import numpy as np
import pytest

from sapwood.context.prompter import Context, Prompter
from sapwood.context.select import SELECTORS, make_selector
from sapwood.context.template import Template, default_template
from sapwood.interfaces import Example
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.readouts import bias
from sapwood.registry import resolve
from sapwood.tasks.readers import read_examples
from sapwood.tasks.splits import split


def pool(count):
    return [Example(text=f"text {n} of {n % 7}", label="ab"[n % 2], row=n) for n in range(count)]


def judge(choices):
    """A loss that means nothing: greedy selection must keep queries out whatever it is told."""
    return np.array([sum(choice) % 7 for choice in choices], np.float64)


WITHOUT_EMBEDDINGS = [n for n in SELECTORS if make_selector(n, judge).needs != "embeddings"]


@pytest.mark.parametrize("name", WITHOUT_EMBEDDINGS)
def test_lm_eval_3978_a_query_never_stands_among_its_own_demonstrations(name):
    """The test item leaked into its own prompt."""
    train = pool(40)
    queries = [e.text for e in train[:12]] + [train[3].text.upper() + "  "]
    selector = make_selector(name, judge)
    chosen = selector.select(train, queries, 4, 0, labels=("a", "b"))
    for query, numbers in zip(queries, chosen if len(chosen) > 1 else chosen * 13, strict=True):
        shown = {" ".join(train[n].text.lower().split()) for n in numbers}
        if selector.sharing == "query":
            assert " ".join(query.lower().split()) not in shown


def test_lm_eval_3978_splits_keep_every_copy_of_a_text_on_one_side(tmp_path):
    """With the query in training no selector could be honest: copies never cross the splits."""
    rows = [f"The film number {n % 30} was {'good' if n % 2 else 'bad'},{n % 2}" for n in range(90)]
    path = tmp_path / "d.csv"
    path.write_text("text,label\n" + "\n".join(rows + [r.upper() for r in rows]) + "\n")
    splits = split(read_examples(path))
    parts = [
        {" ".join(e.text.lower().split()) for e in s}
        for s in (splits.train, splits.dev, splits.test)
    ]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_lighteval_1309_balanced_demonstrations_are_balanced_and_draw_from_their_own_seed():
    """Balanced few-shot sampling stops at label 0 and uses the global random state."""
    train = pool(60)
    selector = resolve("selector", SELECTORS, "stratified")()
    np.random.seed(1)
    first = selector.select(train, [], 8, 5, labels=("a", "b"))
    state = np.random.get_state()[1].copy()
    np.random.seed(2)
    assert selector.select(train, [], 8, 5, labels=("a", "b")) == first
    assert not np.array_equal(state, np.random.get_state()[1])
    assert [train[n].label for n in first[0]].count("a") == 4


WORDS = {"1": " 1", "10": " 10", "100": " 100", "2": " 2"}


@pytest.fixture
def numbered(tiny_tokenizer, tiny_net):
    """Labels that begin one another, on a tokenizer that writes digits one by one."""
    template = Template(instruction="Rate it.", before="Text: ", between="\nRating:", words=WORDS)
    prompter = Prompter(tiny_tokenizer, Context(template=template))
    labels = prompter.labels(list(WORDS))
    return labels, build_trie(labels), Decoder(tiny_net("llama")), prompter


def test_sglang_523_a_label_that_begins_another_is_not_the_same_label(numbered):
    """`choices` are biased by length: "1" always scores at least as much as "10"."""
    labels, trie, decoder, prompter = numbered
    for one in labels:
        for other in labels:
            assert one == other or other[: len(one)] != one
    prompts = prompter.rest(["good", "bad", "fine film"])
    for normalise in ("vocabulary", "trie"):
        scores = decoder.label_scores(prompts, trie, normalise=normalise)
        assert len(np.unique(scores.round(9), axis=1)[0]) == 4
        assert (
            min(abs(row[i] - row[j]) for row in scores for i in range(4) for j in range(i)) > 1e-6
        )
    among = np.exp(decoder.label_scores(prompts, trie, normalise="trie"))
    np.testing.assert_allclose(among.sum(axis=1), 1, atol=1e-5)


def test_sglang_523_a_long_label_is_no_less_likely_for_being_long(tiny_net):
    """Scores are log-probabilities of whole labels among the labels; a bias is fitted on top."""
    decoder = Decoder(tiny_net("llama"))
    trie = build_trie([[10], [20, 21, 22, 23, 24, 25]])
    prompts = [[30 + n, 40, 50 + n] for n in range(20)]
    whole = decoder.label_scores(prompts, trie)
    assert (whole[:, 0] > whole[:, 1]).all()  # six tokens cost six times as much
    gold = np.array([0, 1] * 10)
    fitted = np.exp(bias.labels(whole, gold).apply(whole))
    assert np.exp(whole[:, 0] - np.logaddexp(*whole.T)).mean() > 0.95
    assert 0.2 < fitted[:, 0].mean() < 0.8


@pytest.mark.parametrize("context", [0, 3])
def test_sglang_1257_the_boundary_token_is_the_one_the_model_would_read(tiny_tokenizer, context):
    """The token at the border of prompt and choice was tokenised apart, and scored wrongly."""
    texts = ["the reason", "a film", "no one "]
    shown = tuple(
        Example(text=t, label=v, row=n) for n, (t, v) in enumerate(zip(texts, "aba", strict=True))
    )
    template = default_template(("a", "b"), texts)
    given = Context(
        template=template, demonstrations=shown[:context], selection="stratified", shots=context
    )
    prompter = Prompter(tiny_tokenizer, given)
    labels = prompter.labels(("a", "b"))
    for text, rest in zip(texts, prompter.rest(texts), strict=True):
        for label, ids in zip("ab", labels, strict=True):
            whole = template.prompt(shown[:context], text) + template.words[label]
            together = tiny_tokenizer(whole)["input_ids"]
            assert [*prompter.prefix, *rest, *ids] == list(together)


def test_lm_eval_1351_the_context_is_read_once_not_once_a_query_and_label(tiny_net):
    """ "Is the model run 4 times on exactly the same context?" - "That's correct." """
    decoder = Decoder(tiny_net("llama"))
    trie = build_trie([[10, 11], [10, 12], [20], [21, 22]])
    context, prompts = list(range(30, 230)), [[5, 6, n] for n in range(30, 50)]
    decoder.label_scores(prompts, trie, decoder.encode(context))
    nodes = len(trie.tokens) - 1
    assert decoder.tokens_run == len(context) + len(prompts) * (3 + nodes)


def test_setfit_628_memory_grows_with_the_rows_not_with_their_pairs(tmp_path):
    """A few-shot tool explodes on bigger data: O(n^2) pairs in memory before training."""

    def cost(count):
        rng = np.random.default_rng(0)
        words = [f"w{n}" for n in range(3000)]
        lines = [
            f"{' '.join(words[w] for w in rng.integers(0, 3000, 12))},{n % 4}" for n in range(count)
        ]
        path = tmp_path / f"{count}.csv"
        path.write_text("text,label\n" + "\n".join(lines) + "\n")
        tracemalloc.start()
        splits = split(read_examples(path))
        for name in ("stratified", "bm25"):
            selector = resolve("selector", SELECTORS, name)()
            selector.select(
                splits.train, [e.text for e in splits.test[:20]], 8, 0, labels=splits.labels
            )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    cost(200)  # imports
    small, large = cost(600), cost(2400)
    assert large < 6 * small  # pairs would take 16 times as much
