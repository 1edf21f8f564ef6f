"""Chinese reviews under English demonstrations, beside Chinese ones.

Queries: ChnSentiCorp; demonstrations: SST-2 (English) or ChnSentiCorp's own train split. No
Chinese label is seen but by the "labels" reading (a few calibration rows) and the Chinese arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from _richer_arms import READINGS, Asked, Bench, Kept, difference, readings, score, summary
from common import made_up, say, shared_folder, shuffled

CUT = 96  # tokens of one text
LABELS = ("negative", "positive")
RETRIEVED = 8


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to show demonstrations: `frame`, `words`: languages; `answers`: that of the words
    scored, where it is not `words`; `pool`: the demonstrations' language, or None; `choose`: how.
    """

    frame: str
    words: str
    pool: str | None = "en"
    choose: str = "random"
    align: bool = False
    answers: str | None = None


ARMS = {
    "zero-shot, English prompt": Arm(frame="en", words="en", pool=None),
    "zero-shot, Chinese prompt": Arm(frame="zh", words="zh", pool=None),
    "English demonstrations, English words": Arm(frame="en", words="en"),
    "English demonstrations, Chinese words": Arm(frame="en", words="zh"),
    "English + aligner, English words": Arm(frame="en", words="en", align=True),
    "English + aligner, Chinese words asked": Arm(frame="en", words="en", align=True, answers="zh"),
    "Chinese demonstrations, Chinese words": Arm(frame="zh", words="zh", pool="zh"),
    "English, nearest by centred embedding": Arm(frame="en", words="en", choose="centred"),
    "English, nearest of each label, centred": Arm(frame="en", words="en", choose="each"),
}


def measure(bench: Bench, kept: Kept, smoke: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return (rows, differences): accuracy under each arm."""
    data = _data(smoke)
    if data is None:
        say("sentiment/sst2_en and chnsenticorp_zh are not here: no languages are measured")
        return [], {}
    asked = _asked(data, bench)
    embedded = _Embedded(bench, kept, data, asked)
    runs = {}
    for name, arm in ARMS.items():
        seeds = bench.size.seeds if arm.pool else 1
        runs[name] = [
            kept.get(
                f"languages/{name}/{seed}",
                lambda arm=arm, seed=seed: _run(bench, arm, data, asked, embedded, seed),
            )
            for seed in range(seeds)
        ]
    rows = [summary("languages", name, found) for name, found in runs.items()]
    usual = runs["English demonstrations, English words"]
    compared = {
        f"languages: {name} minus English demonstrations, English words ({reading})": difference(
            found, usual, reading
        )
        for name, found in runs.items()
        if found is not usual
        for reading in READINGS[1:]
    }
    rows += kept.get("languages/retrieval", embedded.retrieval)
    return rows, compared


def _data(smoke: bool) -> dict[str, Any] | None:
    if smoke:
        rows = made_up(LABELS)
        return {"en": rows.train, "zh": rows.train, "dev": rows.dev, "test": rows.dev}
    from sapwood.tasks.readers import read_folder

    english = shared_folder("sentiment/sst2_en")
    chinese = shared_folder("sentiment/chnsenticorp_zh")
    if english is None or chinese is None:
        return None
    tables = read_folder(chinese)
    return {
        "en": read_folder(english)["train"].examples,
        "zh": tables["train"].examples,
        "dev": tables["dev"].examples,
        "test": tables["test"].examples,
    }


def _asked(data: dict[str, Any], bench: Bench) -> Asked:
    few = shuffled(data["dev"])[: bench.size.fitted]
    chosen = [*few, *shuffled(data["test"])[: bench.size.queries]]
    return Asked(
        texts=tuple(e.text for e in chosen), gold=tuple(e.label for e in chosen),
        fitted=len(few), labels=LABELS,
    )  # fmt: skip


def _run(
    bench: Bench, arm: Arm, data: dict[str, Any], asked: Asked, embedded: _Embedded, seed: int
) -> dict[str, Any]:
    from sapwood.context.languages import cross_template
    from sapwood.context.prompter import Context
    from sapwood.context.select import Stratified

    template = cross_template(LABELS, frame=arm.frame, words=arm.words, align=arm.align)
    pool = shuffled(data[arm.pool], seed)[: bench.size.pool] if arm.pool else []
    shown: tuple[Any, ...] = ()
    own = None
    if pool and arm.choose == "random":
        places = Stratified().select(pool, [], bench.size.shots, seed, labels=LABELS)[0]
        shown = tuple(pool[place] for place in places)
    elif pool:
        own = embedded.nearest(pool, arm.choose)
    context = Context(
        template=template, demonstrations=shown, shots=len(shown), max_text_tokens=CUT
    )
    answers = None
    if arm.answers is not None:
        other = cross_template(LABELS, frame=arm.frame, words=arm.answers)
        answers = Context(template=other)
    scores, seconds = score(bench, context, asked, shown=own, answers=answers)
    return readings(scores, seconds, asked)


class _Embedded:
    """Mean hidden states of the base itself, and what they find across languages."""

    def __init__(self, bench: Bench, kept: Kept, data: dict[str, Any], asked: Asked) -> None:
        self.bench, self.kept, self.data, self.asked = bench, kept, data, asked
        self._vectors: dict[str, Any] = {}

    def of(self, texts: Sequence[str]) -> Any:
        """Return (texts, hidden), each text embedded once."""
        import numpy as np

        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        for start in range(0, len(new), 200):
            part = new[start : start + 200]
            self._vectors |= dict(zip(part, mean_states(self.bench, part), strict=True))
        return np.stack([self._vectors[text] for text in texts])

    def similar(self, pool: Sequence[Any], *, centre: bool) -> Any:
        """Return cosines (queries, pool)."""
        import numpy as np

        from sapwood.context.languages import LanguageMeans
        from sapwood.context.similarity import unit

        texts = [e.text for e in pool]
        shown, queries = self.of(texts), self.of(self.asked.texts)
        if centre:
            codes = ["en"] * len(shown) + ["zh"] * len(queries)
            means = LanguageMeans.fit(np.vstack([shown, queries]), codes)
            shown = means.centred(shown, codes[: len(shown)])
            queries = means.centred(queries, codes[len(shown) :])
        return unit(queries) @ unit(shown).T

    def nearest(self, pool: Sequence[Any], how: str) -> list[list[Any]]:
        """Return each query's demonstrations, the most similar last."""
        import numpy as np

        cosines = self.similar(pool, centre=how != "raw")
        k = self.bench.size.shots
        gold = np.array([e.label for e in pool])
        out = []
        for row in cosines:
            order = np.argsort(-row, kind="stable")
            if how == "each":
                each = [order[gold[order] == label][: k // len(LABELS)] for label in LABELS]
                order = np.concatenate(each)
                order = order[np.argsort(-row[order], kind="stable")]
            out.append([pool[place] for place in order[:k][::-1]])
        return out

    def retrieval(self) -> list[dict[str, Any]]:
        """Return how often the nearest English demonstrations have the query's label."""
        import numpy as np

        from sapwood.metrics import bootstrap_interval

        pool = shuffled(self.data["en"])[: self.bench.size.pool]
        labels = np.array([e.label for e in pool])
        gold = np.array(self.asked.gold)[self.asked.fitted :]
        rows = []
        for name, centre in (("raw", False), ("centred by language", True)):
            cosines = self.similar(pool, centre=centre)[self.asked.fitted :]
            top = np.argsort(-cosines, axis=1)[:, :RETRIEVED]
            same = (labels[top] == gold[:, None]).mean(1)
            chance = np.array([(labels == label).mean() for label in gold])
            found, above = bootstrap_interval(same), bootstrap_interval(same - chance)
            rows.append(
                {
                    "part": "retrieval", "arm": f"mean hidden states, {name}",
                    "queries": len(gold), "pool": len(pool), "nearest": RETRIEVED,
                    "same_label": {"value": found.value, "low": found.low, "high": found.high},
                    "above_chance": {"value": above.value, "low": above.low, "high": above.high},
                    "distinct_neighbours": len(np.unique(top)),
                }
            )  # fmt: skip
        return rows


def mean_states(bench: Bench, texts: Sequence[str]) -> Any:
    """Return the mean last hidden state of each text's tokens, (texts, hidden)."""
    import numpy as np

    from sapwood.models.layout import Row

    coded = bench.tokenizer(list(texts), truncation=True, max_length=CUT, verbose=False)
    rows = [Row(ids=list(ids), wanted=range(len(ids))) for ids in coded["input_ids"]]
    total = np.zeros((len(rows), bench.decoder.net.config.hidden_size))
    for owners, states in bench.decoder.hidden(rows):
        np.add.at(total, owners.numpy(), states.float().cpu().numpy())
    return total / np.array([len(row.ids) for row in rows])[:, None]
