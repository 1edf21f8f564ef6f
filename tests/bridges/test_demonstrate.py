"""Learning to read demonstrations: the rows, the loss of many targets, tasks of several kinds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sapwood.adaptation import load, save
from sapwood.bridges.answers import probabilities
from sapwood.bridges.demonstrate import Demonstrating, Episodes, Script, demonstrate, practice
from sapwood.bridges.robustness import answering, robustness
from sapwood.context.prompter import Context, Prompter
from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Example
from sapwood.methods import parts
from sapwood.methods.lora import Lora
from sapwood.models.decoder import Decoder
from sapwood.models.labels import LabelHead
from sapwood.models.layout import build_pack
from sapwood.training import Recipe

TOPICS = ("sport news", "sport", "art")  # several tokens, and one label begins another


def drained(generator):
    """Return a generator's events and its result."""
    events = []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return events, end.value


@pytest.fixture(scope="module")
def tasks(reviews):
    films = [Example(text=t, label=g, row=n) for n, (t, g) in enumerate(reviews(30))]
    topics = [
        Example(text=f"{'ball' if n % 3 < 2 else 'tune'} {n}", label=TOPICS[n % 3], row=n)
        for n in range(30)
    ]
    return practice("films", films), practice("topics", topics)


@pytest.mark.parametrize("instruction", ["Say which.", ""])
def test_a_row_is_the_prompt_that_is_read_later(tiny_tokenizer, tasks, instruction):
    for task in tasks:
        template = replace(task.template, instruction=instruction)
        task = replace(task, template=template)
        script = Script(tiny_tokenizer, task, 64)
        numbers = [4, 9, 2, 7]
        row = script.write(numbers, every=False).row
        shown = tuple(task.rows[n] for n in numbers[:-1])
        prompter = Prompter(
            tiny_tokenizer, Context(template=template, demonstrations=shown, shots=3)
        )
        (rest,) = prompter.rest([task.rows[7].text])
        answer = prompter.labels(task.labels)[script.gold[7]]
        assert list(row.ids) == [*prompter.prefix, *rest, *answer[:-1]]
        assert row.wanted[0] == len(prompter.prefix) + len(rest) - 1
        assert len(row.wanted) == len(answer)


def test_a_long_text_is_cut_as_the_prompter_cuts_it(tiny_tokenizer, tasks):
    rows = (Example(text="word " * 40, label="art"), *tasks[1].rows)
    task = replace(tasks[1], rows=rows)
    row = Script(tiny_tokenizer, task, 12).write([0], every=True).row
    prompter = Prompter(tiny_tokenizer, Context(template=task.template, max_text_tokens=12))
    (rest,) = prompter.rest([rows[0].text])
    assert list(row.ids)[: len(prompter.prefix) + len(rest)] == [*prompter.prefix, *rest]


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_many_targets_in_one_row_are_the_losses_of_separate_rows(
    tiny_net, tiny_tokenizer, tasks, kind
):
    decoder = Decoder(tiny_net(kind))
    for task in tasks:
        script = Script(tiny_tokenizer, task, 64)
        head = LabelHead(decoder.net, script.trie)

        def loss(target, head=head):
            states = decoder.run(build_pack([target.row]))
            return float(head.loss(states, target.nodes, target.answers))

        numbers = [3, 8, 1, 12, 5]
        apart = [loss(script.write(numbers[: n + 1], every=False)) for n in range(5)]
        assert loss(script.write(numbers, every=True)) == pytest.approx(sum(apart), abs=1e-4)


def test_packs_of_several_tasks_give_each_its_own_labels(tiny_net, tiny_tokenizer, tasks):
    net = tiny_net("llama")
    Lora(rank=2).attach(net, seed=1)
    for tensor in parts.weights(net).values():
        torch.nn.init.normal_(tensor, std=0.1)
    decoder = Decoder(net)
    scripts = [Script(tiny_tokenizer, task, 64) for task in tasks]
    episodes = Episodes(decoder, scripts, Demonstrating(shots=3, episodes=6))
    assert len(episodes) == 6
    numbers = [4, 1, 0, 3]
    expected = torch.zeros(())
    for n in numbers:
        target = episodes.targets[n]
        states = decoder.run(build_pack([target.row]))
        head = LabelHead(net, scripts[n % 2].trie)
        expected = expected + head.loss(states, target.nodes, target.answers)
    weights = list(parts.weights(net).values())
    wanted = torch.autograd.grad(expected, weights)
    for budget in (10_000, 50):
        shares = [part for part, _ in episodes.losses(numbers, budget)]
        assert (len(shares) == 1) == (budget == 10_000)
        total = torch.stack(shares).sum()
        torch.testing.assert_close(total, expected, atol=1e-4, rtol=0)
        for got, want in zip(torch.autograd.grad(total, weights), wanted, strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)
    answers = sum(len(episodes.targets[n].answers) for n in numbers)
    assert episodes.supervised(numbers) == answers


def test_draws_are_fresh_and_known_from_the_seed(tiny_net, tiny_tokenizer, tasks):
    decoder = Decoder(tiny_net("llama"))
    scripts = [Script(tiny_tokenizer, tasks[0], 64)]
    settings = Demonstrating(shots=4, episodes=5)
    first, again = (Episodes(decoder, scripts, settings) for _ in range(2))
    assert first.targets == again.targets
    assert len({tuple(t.row.ids) for t in first.targets}) == 5
    one = Episodes(decoder, scripts, replace(settings, every=False))
    assert [t.row.ids for t in one.targets] == [t.row.ids for t in first.targets]
    pairs = zip(one.targets, first.targets, strict=True)
    assert all(len(a.answers) < len(b.answers) for a, b in pairs)


def test_practice_makes_an_adaptation_for_the_held_out_task(bases, roomy, tasks, tmp_path):
    settings = Demonstrating(
        shots=4, episodes=24, rank=4, recipe=Recipe(learning_rate=1e-2, epochs=1, batch_size=4)
    )
    _, whole = drained(demonstrate(bases, roomy("llama"), [tasks[0]], tasks[1], settings=settings))
    losses = whole.evidence["practised"]["curve"]["loss"]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert whole.labels == tasks[1].labels
    assert whole.context.shots == 4 and whole.scope == "all"
    assert not list(parts.parts(bases.get(roomy("llama")).net))
    save(whole, tmp_path / "a")
    texts = ["ball 3", "tune 4"]
    np.testing.assert_allclose(
        probabilities(bases, load(tmp_path / "a"), texts), probabilities(bases, whole, texts)
    )
    events = demonstrate(
        bases, roomy("llama"), [tasks[0]], tasks[1], settings=settings, folder=tmp_path / "run"
    )
    while next(events).done < 3:
        pass
    events.close()
    rest, resumed = drained(
        demonstrate(
            bases, roomy("llama"), [tasks[0]], tasks[1], settings=settings, folder=tmp_path / "run"
        )
    )
    assert [e.done for e in rest] == [4, 5, 6]
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, resumed.weights[name])


def test_what_cannot_be_practised_says_why(bases, roomy, tasks):
    with pytest.raises(ConfigError, match="no task to practise on"):
        next(demonstrate(bases, roomy("llama"), [], tasks[0]))
    with pytest.raises(DataError) as caught:
        next(
            demonstrate(
                bases, roomy("llama"), [tasks[0]], tasks[1], settings=Demonstrating(shots=40)
            )
        )
    assert caught.value.details == ("'films' has 30", "'topics' has 30")
    with pytest.raises(DataError, match="1 rows have no label"):
        practice("odd", [Example(text="a", label="x"), Example(text="b")])
    with pytest.raises(ConfigError, match="practice is wrong"):
        Demonstrating(shots=0)


def obedient(demonstrations, texts):
    """A model that does what the demonstrations say of the first word, whatever their order."""
    known = {d.text.split()[0]: d.label for d in demonstrations}
    return np.array([[known[t.split()[0]] == label for label in ("a", "b", "c")] for t in texts])


def stubborn(demonstrations, texts):
    return np.array([[t.split()[0] == label for label in ("a", "b", "c")] for t in texts])


def last_label(demonstrations, texts):
    return np.array([[demonstrations[-1].label == label for label in ("a", "b", "c")]] * len(texts))


def test_robustness_tells_three_readers_apart():
    shown = [Example(text=f"{label} {n}", label=label) for n in range(2) for label in "abc"]
    queries = [Example(text=f"{label} x", label=label) for label in "aabc"]

    def measure(predict):
        return drained(robustness(predict, shown, queries, ("a", "b", "c"), orders=20))[1]

    found = measure(obedient)
    assert (found.accuracy, found.spread, found.follows, found.keeps) == (1, 0, 1, 0)
    found = measure(stubborn)
    assert (found.accuracy, found.spread, found.follows, found.keeps) == (1, 0, 0, 1)
    found = measure(last_label)
    assert found.worst == 0.25 and found.spread == pytest.approx(0.11, abs=0.03)


def test_answering_shows_the_demonstrations_it_is_given(bases, prompted):
    made = prompted("llama")
    texts = ["great film", "weak plot"]
    with answering(bases, made) as predict:
        found = predict(made.context.demonstrations, texts)
        other = predict(made.context.demonstrations[::-1], texts)
    np.testing.assert_allclose(found, probabilities(bases, made, texts), atol=1e-6)
    assert not np.allclose(found, other)
