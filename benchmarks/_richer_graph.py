"""Questions over a knowledge graph, with and without facts from it.

The graph given is the train split of UMLS (McCray 2003). Demonstrations and calibration rows come
from its dev split, questions from its test split, so that no asked triple is in the graph; that is
asserted for every question and every demonstration.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from _richer_arms import Asked, Bench, Kept, difference, readings, score, since, summary
from common import clock, say, shared_folder

RELATIONS = 6  # asked about: the most frequent ones, whose words differ
FACTS = 6
TASKS = {
    "statement": ("Decide whether each statement is true or false.", "Statement: ", "\nAnswer:"),
    "relation": ("Say how the first thing relates to the second.", "Pair: ", "\nRelation:"),
}
ARMS = {  # facts for the query, facts for the demonstrations, demonstrations
    "zero-shot": (None, None, False),
    "zero-shot + facts": ("near", None, False),
    "demonstrations": (None, None, True),
    "demonstrations + facts of the query": ("near", None, True),
    "demonstrations + facts of each": ("near", "near", True),
    "demonstrations + random facts of each": ("random", "random", True),
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a triple: its text, its answer, the triple that must not be known."""

    text: str
    label: str
    triple: tuple[str, str, str]


def measure(bench: Bench, kept: Kept, smoke: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return (rows, differences) of both tasks."""
    from sapwood.context.graph import Graph
    from sapwood.context.triples import TripleSet, read_triples

    folder = shared_folder("kg/umls")
    if folder is None and not smoke:
        say("kg/umls is not here: no knowledge graph is measured")
        return [], {}
    if smoke or folder is None:
        graph, parts = _made_up()
    else:
        graph = Graph(read_triples(folder / "train.jsonl"))
        parts = [_keys(folder / f"{name}.jsonl") for name in ("train", "dev", "test")]
    assert isinstance(graph.content, TripleSet)
    rows, compared = [], {}
    for task in TASKS:
        make = _statements if task == "statement" else _relations
        dev, test = make(graph, parts, parts[1], 0), make(graph, parts, parts[2], 1)
        runs = {arm: _runs(bench, kept, task, arm, graph, dev, test) for arm in ARMS}
        rows += [summary(f"graph: {task}", arm, found) for arm, found in runs.items()]
        rows.append(_vote(graph, task, dev, test, bench))
        full, plain = runs["demonstrations + facts of each"], runs["demonstrations"]
        compared[f"{task}: facts minus none"] = difference(full, plain, "labels")
        other = runs["demonstrations + random facts of each"]
        compared[f"{task}: facts minus random facts"] = difference(full, other, "labels")
    return rows, compared


def _keys(path: Any) -> list[tuple[str, str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(r["head"], r["relation"], r["tail"]) for r in map(json.loads, lines)]


def _made_up() -> tuple[Any, list[list[tuple[str, str, str]]]]:
    from sapwood.context.graph import Graph
    from sapwood.context.triples import Triple, TripleSet

    keys = [(f"t{n}", ("isa", "eats")[n % 2], f"k{n % 7}") for n in range(120)]
    train = [
        Triple(head=h, relation=r, tail=t, file="made up", line=n)
        for n, (h, r, t) in enumerate(keys[:60])
    ]
    return Graph(TripleSet(triples=tuple(train))), [keys[:60], keys[60:90], keys[90:]]


def _line(graph: Any, key: tuple[str, str, str]) -> str:
    from sapwood.context.triples import Triple

    return str(graph.verbalise(Triple(head=key[0], relation=key[1], tail=key[2], file="", line=0)))


def _statements(graph: Any, parts: Any, keys: Sequence[Any], seed: int) -> list[Question]:
    """Return true triples and as many whose tail was exchanged for one that is nowhere true."""
    rng = random.Random(seed)
    known = {key for part in parts for key in part}
    tails = sorted({key[2] for key in known})
    out = []
    for key in rng.sample(list(keys), len(keys)):
        out.append(Question(text=_line(graph, key), label="true", triple=key))
        false = key
        while false in known:
            false = (key[0], key[1], rng.choice(tails))
        out.append(Question(text=_line(graph, false), label="false", triple=false))
    return out


def _relations(graph: Any, parts: Any, keys: Sequence[Any], seed: int) -> list[Question]:
    """Return pairs with one relation only, in any split and either direction."""
    from sapwood.context.graph import relation_words

    rng = random.Random(seed)
    frequent = [r for r, _ in Counter(key[1] for key in parts[0]).most_common(RELATIONS)]
    between = Counter(frozenset((h, t)) for part in parts for h, _, t in part)
    out = []
    for key in rng.sample(list(keys), len(keys)):
        if key[1] in frequent and between[frozenset((key[0], key[2]))] == 1:
            text = f"{graph.name(key[0])} and {graph.name(key[2])}"
            out.append(Question(text=text, label=relation_words(key[1]), triple=key))
    return out


def _runs(
    bench: Bench, kept: Kept, task: str, arm: str, graph: Any, dev: Any, test: Any
) -> list[dict[str, Any]]:
    seeds = bench.size.seeds if ARMS[arm][2] else 1
    return [
        kept.get(
            f"graph/{task}/{arm}/{seed}",
            lambda seed=seed: _run(bench, task, arm, graph, (dev, test), seed),
        )
        for seed in range(seeds)
    ]


def _run(
    bench: Bench, task: str, arm: str, graph: Any, questions: Any, seed: int
) -> dict[str, Any]:
    from sapwood.context.prompter import Context
    from sapwood.context.template import Template
    from sapwood.interfaces import Example

    for_query, for_shown, demonstrate = ARMS[arm]
    size, (dev, test) = bench.size, questions
    labels = tuple(sorted({q.label for q in dev + test}))
    instruction, before, between = TASKS[task]
    shown = _dealt(dev[size.fitted :], labels, size.shots, seed) if demonstrate else []
    asked = [*dev[: size.fitted], *test[: size.queries]]
    _blocks(graph, asked[:1], for_query, seed)  # builds the index of names
    started = clock()
    blocks = _blocks(graph, asked, for_query, seed)
    finding = since(started)
    template = Template(
        instruction=f"{instruction} Answers: {', '.join(labels)}.", before="", between=between,
        words={label: f" {label}" for label in labels},
    )  # fmt: skip
    above = _blocks(graph, shown, for_shown, seed)
    context = Context(
        template=template,
        demonstrations=tuple(
            Example(text=block + before + q.text, label=q.label)
            for q, block in zip(shown, above, strict=True)
        ),
        shots=len(shown),
        max_text_tokens=1024,
    )
    texts = tuple(b + before + q.text for q, b in zip(asked, blocks, strict=True))
    pairs = Asked(
        texts=texts, gold=tuple(q.label for q in asked), fitted=len(dev[: size.fitted]),
        labels=labels,
    )  # fmt: skip
    scores, seconds = score(bench, context, pairs)
    return readings(scores, (seconds[0] + finding[0], seconds[1] + finding[1]), pairs)


def _dealt(pool: Sequence[Question], labels: Sequence[str], k: int, seed: int) -> list[Question]:
    """Return `k` questions of each label in turn, shuffled."""
    rng = random.Random(seed)
    order = rng.sample(list(pool), len(pool))
    piles = [[q for q in order if q.label == label] for label in rng.sample(labels, len(labels))]
    dealt = [pile[turn] for turn in range(k) for pile in piles if turn < len(pile)][:k]
    return rng.sample(dealt, len(dealt))


def _blocks(graph: Any, questions: Sequence[Question], which: str | None, seed: int) -> list[str]:
    """Return the facts block of each question: near ones, or as many random ones."""
    from sapwood.context.facts import Fact, facts_block

    if which is None:
        return [""] * len(questions)
    known = {triple.key for triple in graph.content.triples}
    assert not any(q.triple in known for q in questions), "an asked triple is in the graph"
    found = graph.search([q.text for q in questions], hops=1, limit=FACTS)
    for question, facts in zip(questions, found, strict=True):
        assert _line(graph, question.triple) not in {fact.text for fact in facts}
    if which == "random":
        rng = random.Random(seed)
        triples = graph.content.triples
        found = [
            tuple(
                Fact(text=graph.verbalise(rng.choice(triples)), source="", score=0.0) for _ in facts
            )
            for facts in found
        ]
    return [facts_block(facts) for facts in found]


def _vote(graph: Any, task: str, dev: Any, test: Any, bench: Bench) -> dict[str, Any]:
    """Return what counting says without a model, from the same facts.

    Relations: the label most frequent among the facts. Statements: true where some fact joins both
    ends or names the relation with one of them.
    """
    import numpy as np

    from sapwood.metrics import bootstrap_interval

    questions = test[: bench.size.queries]
    labels = sorted({q.label for q in dev + test})
    usual = Counter(q.label for q in dev).most_common(1)[0][0]
    right = []
    for question, facts in zip(
        questions, graph.search([q.text for q in questions], hops=1, limit=FACTS), strict=True
    ):
        if task == "relation":
            counts = Counter(w for fact in facts for w in labels if f" {w} " in f"{fact.text} ")
            said = counts.most_common(1)[0][0] if counts else usual
        else:
            tail, words = graph.name(question.triple[2]), question.text.split()
            joined = any(fact.score >= 4 for fact in facts)
            alike = any(
                fact.text.endswith(tail) and set(words) & set(fact.text.split()[1:-1])
                for fact in facts
            )
            said = "true" if joined or alike else "false"
        right.append(float(said == question.label))
    found = bootstrap_interval(np.array(right))
    same = {"value": found.value, "low": found.low, "high": found.high}
    say(f"  graph: {task} / counting the facts, no model: {found.value:.3f}")
    return {
        "part": f"graph: {task}", "arm": "counting the facts, no model", "seeds": 1,
        "queries": len(right), "plain": same, "batch": same, "labels": same, "ms_per_query": 0.0,
        "cpu_ms_per_query": 0.0,
    }  # fmt: skip
