"""The sides of the scoring benchmark: Sapwood, lm-evaluation-harness and a plain loop.

All get the same strings and give the same number: log p(label words | prompt), or under the
channel log p(text | answers first, label), (queries, labels). The slow sides may be asked for some
of the labels only; what a query would cost them is then said to be extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One comparison: a context and the texts to be scored under it.

    `slow`: queries for the slow sides; `columns`: the labels they score, all of them or a sample;
    `ending`: what follows every label's words, where one label begins another.
    """

    name: str
    source: str
    context: Any
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    slow: int
    columns: tuple[int, ...]
    ending: str = ""
    channel: bool = False

    def pairs(self, count: int) -> list[tuple[str, str]]:
        """Return (what is given, what is scored after it) of each query and label in `columns`."""
        template, shown = self.context.template, self.context.demonstrations
        labels = [self.labels[n] for n in self.columns]
        texts = self.texts[:count]
        if not self.channel:
            words = [template.words[label] + self.ending for label in labels]
            return [(template.prompt(shown, text), word) for text in texts for word in words]
        head = template.channel_head(shown) + template.separator
        return [(head + template.answer_first(y), t) for t in texts for y in labels]

    def shape(self, scores: Any) -> Any:
        """Return scores of `pairs` as (queries, columns)."""
        import numpy as np

        return np.array(scores).reshape(-1, len(self.columns))


def score_sapwood(decoder: Any, tokenizer: Any, setting: Setting, count: int) -> Any:
    """Return log p, (queries, labels), of all labels; nothing is kept from one call to the next."""
    from sapwood.context.prompter import Prompter
    from sapwood.models.channel import channel_scores
    from sapwood.models.decoder import Decoder
    from sapwood.models.trie import build_trie

    fresh = Decoder(decoder.net)  # an empty prefix cache
    prompter = Prompter(tokenizer, setting.context, channel=setting.channel)
    if setting.channel:
        rows = prompter.channel_rows(setting.texts[:count], setting.labels)
        return channel_scores(fresh, rows, fresh.encode(prompter.prefix))
    rest = prompter.rest(setting.texts[:count])
    trie = build_trie(prompter.labels(setting.labels))
    return fresh.label_scores(rest, trie, fresh.encode(prompter.prefix))


def harness(net: Any, tokenizer: Any, batch: int) -> Any:
    """Return lm-eval's Hugging Face backend around a loaded net."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=net, tokenizer=tokenizer, batch_size=batch, device="cpu")


def requests(setting: Setting, count: int) -> list[Any]:
    """Return lm-eval's requests, asserted to be exactly the pairs.

    Direct ones are built by a local task of its own; it has no task kind for the channel.
    """
    from lm_eval.api.instance import Instance

    wanted = setting.pairs(count)
    if setting.channel:
        return [
            Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=n)
            for n, pair in enumerate(wanted)
        ]
    built = list(_task(setting, wanted).instances)
    assert [r.args for r in built] == wanted, "lm-eval asks something else than the same prompts"
    return built


def _task(setting: Setting, wanted: Sequence[tuple[str, str]]) -> Any:
    import datasets
    from lm_eval.api.task import ConfigurableTask

    prompts = [prompt for prompt, _ in wanted[:: len(setting.columns)]]
    words = [word for _, word in wanted[: len(setting.columns)]]
    rows = datasets.Dataset.from_list([{"prompt": prompt, "gold": 0} for prompt in prompts])
    task = ConfigurableTask(
        config={
            "task": f"sapwood_{setting.name}",
            "custom_dataset": lambda **_: {"test": rows},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": lambda doc: doc["prompt"],
            "doc_to_choice": lambda _: words,
            "doc_to_target": lambda doc: doc["gold"],
            "target_delimiter": "",
        }
    )
    task.build_all_requests(rank=0, world_size=1)
    return task


def score_harness(lm: Any, asked: Sequence[Any], setting: Setting) -> Any:
    """Return log p, (queries, columns), by lm-eval's own loglikelihood."""
    answers = lm.loglikelihood(list(asked), disable_tqdm=True)
    return setting.shape([score for score, _ in answers])


def score_loop(net: Any, tokenizer: Any, setting: Setting, count: int) -> Any:
    """Return log p, (queries, columns), by one forward call for each query and label."""
    import torch

    found = []
    for given, scored in setting.pairs(count):
        # A token across the seam belongs to what is scored, as for the other sides.
        start = len(tokenizer(given.rstrip(" "))["input_ids"])
        ids = torch.tensor([tokenizer(given + scored)["input_ids"]])
        with torch.inference_mode():
            logits = net(input_ids=ids).logits[0].float().log_softmax(-1)
        places = torch.arange(start - 1, ids.shape[1] - 1)
        found.append(float(logits[places, ids[0, start:]].sum()))
    return setting.shape(found)


def forwards(lm: Any, setting: Setting, labels: Sequence[int]) -> int:
    """Return how many different rows lm-eval runs for one query and these labels.

    It runs once what differs in the last token only (`_loglikelihood_tokens` groups requests by
    context and continuation without its last token).
    """
    from dataclasses import replace

    pairs = replace(setting, columns=tuple(labels)).pairs(1)
    coded = (lm._encode_pair(*pair) for pair in pairs)
    return len({tuple(given + scored)[:-1] for given, scored in coded})


def ending(tokenizer: Any, context: Any, labels: Sequence[str]) -> str:
    """Return what Sapwood scores after every label: the separator where one begins another."""
    from sapwood.context.prompter import Prompter

    separator = context.template.separator
    end = tokenizer(separator, add_special_tokens=False)["input_ids"]
    found = Prompter(tokenizer, context).labels(labels)
    return separator if all(ids[-len(end) :] == end for ids in found) else ""


def same_tokens(lm: Any, tokenizer: Any, setting: Setting) -> bool:
    """Return whether Sapwood and lm-eval score the same tokens after the same tokens."""
    from sapwood.context.prompter import Prompter

    prompter = Prompter(tokenizer, setting.context, channel=setting.channel)
    texts = setting.texts[: setting.slow]
    labels = [setting.labels[n] for n in setting.columns]
    if setting.channel:
        rows = prompter.channel_rows(texts, labels)
        own = [(row[:at], row[at:]) for part in rows for row, at in part]
    else:
        rest, words = prompter.rest(texts), prompter.labels(setting.labels)
        own = [(ids, words[n]) for ids in rest for n in setting.columns]
    theirs = [lm._encode_pair(*pair) for pair in setting.pairs(setting.slow)]
    before = list(prompter.prefix)
    return [(before + list(g), list(s)) for g, s in own] == [(list(g), list(s)) for g, s in theirs]
