"""The cells of the in-context table: what one is, what is scored for it, and its file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import made_up, shuffled, wanted_folder

FOLDERS = {
    "sst2_en": "sentiment", "agnews_en": "topic", "banking77_en": "intent",
    "chnsenticorp_zh": "sentiment", "fewclue_tnews_zh": "topic", "fewclue_eprstmt_zh": "sentiment",
}  # fmt: skip
# The titles that TouTiao itself gives to the labels of tnews; English words in a Chinese prompt
# would measure translation.
TNEWS = {
    "agriculture": "农业", "car": "汽车", "culture": "文化", "edu": "教育", "entertainment": "娱乐",
    "finance": "财经", "game": "游戏", "house": "房产", "military": "军事", "sports": "体育",
    "stock": "股票", "story": "故事", "tech": "科技", "travel": "旅游", "world": "国际",
}  # fmt: skip


# Test rows and labelled rows of the channel, whose cost is labels x text tokens, where it costs
# more than elsewhere.
CHANNEL_DEAR = ("agnews_en", "fewclue_tnews_zh")
CHANNEL = {"fewclue_tnews_zh": (64, 48), "banking77_en": (4, 1)}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is scored: texts are cut at `tokens`, the first rows of `queries` are the test."""

    queries: int = 200
    bias_rows: int = 96
    domain: int = 20
    tokens: int = 64

    def of(self, cell: Cell) -> Size:
        """Return what is scored for `cell`: less where a row costs much."""
        if cell.scorer != "channel":
            most = 150 if cell.data == "banking77_en" else self.queries
            return replace(self, queries=min(most, self.queries))
        queries, known = CHANNEL.get(cell.data, (100, 48))
        return replace(
            self, queries=min(queries, self.queries), bias_rows=min(known, self.bias_rows)
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One file of raw scores: one draw of demonstrations under one base, read by one scorer.

    `part` is "scores", or the name of rows that were added later without scoring the others anew.
    """

    data: str
    base: str
    shots: int
    seed: int
    scorer: str = "direct"
    part: str = "scores"

    def path(self, folder: Path) -> Path:
        """Return the cell's file."""
        parts = [self.data, self.base, f"{self.shots}-shots", f"seed-{self.seed}", self.scorer]
        parts = [part.replace("/", "_") for part in parts]  # a base may be a folder
        return folder / ("--".join([*parts, self.part]) + ".npz")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The rows of one cell: `shown` and `known` come from training rows, and share none."""

    labels: tuple[str, ...]
    template: Any
    shown: tuple[Any, ...]
    known: tuple[Any, ...]
    test: tuple[Any, ...]
    domain: tuple[str, ...]


def grid(sets: Sequence[str], bases: Sequence[str], seeds: int, scorer: str) -> list[Cell]:
    """Return the cells of a scorer, or of "generated", rows that are added to direct cells.

    The first seed of every set comes first.
    SmolLM2 was trained on English: its Chinese cells come after all others. After their first,
    the seeds of sets that cost many times as much as two labels come late: BANKING77 and, under
    the channel, where it is only timed, every set of more labels.
    """
    part = "generated" if scorer == "generated" else "scores"
    scorer = "direct" if scorer == "generated" else scorer
    cells = [
        Cell(data=data, base=base, shots=shots, seed=seed, scorer=scorer, part=part)
        for seed in range(seeds)
        for data in sets
        for base in bases
        for shots in ((16,) if scorer == "features" else (0, 4, 16))
        if data != "banking77_en" or scorer == "direct" or (seed, shots) == (0, 16)
    ]

    def place(cell: Cell) -> tuple[bool, bool, int, bool]:
        dear = ("banking77_en", *(CHANNEL_DEAR if scorer == "channel" else ()))
        many = cell.data in dear
        foreign = cell.base == "smollm2-135m" and cell.data.endswith("_zh")
        return foreign, many and cell.seed > 0, cell.seed, many

    return sorted(cells, key=place)


def pools(data: str, seed: int) -> tuple[list[Any], list[Any]]:
    """Return (training rows that draw number `seed` may use, all test rows).

    For FewCLUE the training rows are those of its official few-shot split of that number.
    """
    from sapwood.tasks.readers import read_examples, read_folder

    folder = wanted_folder(f"{FOLDERS[data]}/{data}")
    official = folder / "fewshot" / f"train_{seed % 5}.jsonl"
    tables = read_folder(folder)
    train = read_examples(official) if official.is_file() else tables["train"]
    rows = [list(part.examples) for part in (train, tables["test"])]
    if data == "fewclue_tnews_zh":
        rows = [[replace(e, label=TNEWS[str(e.label)]) for e in part] for part in rows]
    return rows[0], rows[1]


def draw(cell: Cell, size: Size, *, smoke: bool = False) -> Draw:
    """Return the rows of a cell; the test rows are the same for all seeds, shots and bases."""
    from sapwood.context.select import Stratified
    from sapwood.context.template import default_template
    from sapwood.readouts.inputs import domain_inputs

    if smoke:
        made = made_up(("bad", "good"))
        train, everything = list(made.train), list(made.dev)
    else:
        train, everything = pools(cell.data, cell.seed)
    labels = tuple(sorted({e.label for e in everything}))
    train = [e for e in train if e.label in set(labels)]
    (numbers,) = Stratified().select(train, [], cell.shots, cell.seed, labels=labels)
    left = [e for n, e in enumerate(train) if n not in set(numbers)]
    test = shuffled(everything)[: size.queries]
    return Draw(
        labels=labels,
        template=default_template(labels, [e.text for e in shuffled(train)[:200]]),
        shown=tuple(train[n] for n in numbers),
        known=tuple(shuffled(left, cell.seed)[: size.bias_rows]),
        test=tuple(test),
        domain=domain_inputs([e.text for e in train], size.domain, seed=cell.seed),
    )


def context_of(rows: Draw, size: Size) -> Any:
    """Return the context of a cell; every text is cut."""
    from sapwood.context.prompter import Context

    return Context(
        template=rows.template,
        demonstrations=rows.shown,
        selection="stratified",
        shots=len(rows.shown),
        max_text_tokens=size.tokens,
    )


def texts_of(cell: Cell, rows: Draw) -> dict[str, list[str]]:
    """Return the texts to be scored by name.

    Without demonstrations the test rows score alike for every seed, and seed 0 keeps them.
    """
    from sapwood.readouts.inputs import content_free_inputs

    return {
        "test": [e.text for e in rows.test] if cell.shots or not cell.seed else [],
        "known": [e.text for e in rows.known],
        "free": list(content_free_inputs()),
        "domain": list(rows.domain),
    }


def gold_of(rows: Draw) -> dict[str, Any]:
    """Return the class numbers of the test rows and of the labelled rows."""
    import numpy as np

    number = {label: place for place, label in enumerate(rows.labels)}
    return {
        "test_gold": np.array([number[e.label] for e in rows.test], np.int64),
        "known_gold": np.array([number[e.label] for e in rows.known], np.int64),
    }


def load(base: str, runtime: Any) -> Any:
    """Return (decoder, tokenizer) of a base."""
    from sapwood.models.decoder import Decoder
    from sapwood.models.load import load_base

    found = load_base(base, runtime)
    return Decoder(found.net), found.tokenizer


def score_direct(cell: Cell, rows: Draw, size: Size, sides: Any) -> dict[str, Any]:
    """Return the arrays of a direct cell; all rows are read under one encoded context."""
    import numpy as np

    from sapwood.context.prompter import Prompter
    from sapwood.models.trie import build_trie

    decoder, tokenizer = sides
    prompter = Prompter(tokenizer, context_of(rows, size))
    words = prompter.labels(rows.labels)
    trie = build_trie(words)
    parts = texts_of(cell, rows)
    asked = {name: prompter.rest(texts) for name, texts in parts.items() if texts}
    prefix = decoder.encode(prompter.prefix)
    found: dict[str, Any] = {}
    for name, prompts in asked.items():
        start = time.perf_counter()
        found[name] = decoder.label_scores(prompts, trie, prefix)
        found[f"{name}_seconds"] = time.perf_counter() - start
    alone = tokenizer(rows.template.premise())["input_ids"]
    found["premise"] = decoder.label_scores([prompter.premise()], trie, prefix)
    found["premise_alone"] = decoder.label_scores([alone], trie)
    return found | {
        **gold_of(rows),
        "label_tokens": np.array([len(ids) for ids in words]),
        "label_bytes": np.array([len(rows.template.words[x].encode()) for x in rows.labels]),
        "prefix_tokens": len(prompter.prefix),
        "truncated": prompter.truncated,
    }


def score_channel(cell: Cell, rows: Draw, size: Size, sides: Any) -> dict[str, Any]:
    """Return the arrays of a channel cell: log p(text | context with answers first, label)."""
    from sapwood.context.prompter import Prompter
    from sapwood.models.channel import channel_scores

    decoder, tokenizer = sides
    prompter = Prompter(tokenizer, context_of(rows, size), channel=True)
    parts = texts_of(cell, rows)
    parts["free"] = [text for text in parts["free"] if text]  # an empty text has no probability
    asked = {n: prompter.channel_rows(texts, rows.labels) for n, texts in parts.items() if texts}
    prefix = decoder.encode(prompter.prefix)
    found: dict[str, Any] = {}
    for name, prompts in asked.items():
        start = time.perf_counter()
        found[name] = channel_scores(decoder, prompts, prefix)
        found[f"{name}_seconds"] = time.perf_counter() - start
    found |= {"prefix_tokens": len(prompter.prefix), "truncated": prompter.truncated}
    return found | gold_of(rows)


def score_generated(cell: Cell, rows: Draw, size: Size, sides: Any) -> dict[str, Any]:
    """Return scores of texts that the model wrote under the context (Jiang et al. 2023)."""
    import numpy as np

    from sapwood.context.prompter import Prompter
    from sapwood.models.generate import Sampling, generate
    from sapwood.models.trie import build_trie

    decoder, tokenizer = sides
    prompter = Prompter(tokenizer, context_of(rows, size))
    trie = build_trie(prompter.labels(rows.labels))
    prompter.rest(["x"])  # settles where the prefix ends
    prefix = decoder.encode(prompter.prefix)
    start = time.perf_counter()
    ends = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("\n", "\n\n")]
    sampling = Sampling(
        tokens=size.tokens,
        temperature=1.0,
        seed=cell.seed,
        samples=size.domain,
        stop_ids=tuple({tokenizer.eos_token_id, *(ids[0] for ids in ends if len(ids) == 1)}),
    )
    opened = prompter.separator + rows.template.before.rstrip()
    asked = tokenizer(opened, add_special_tokens=not prompter.head)["input_ids"]
    (written,) = generate(decoder, [asked], prefix, sampling=sampling)
    texts = [tokenizer.decode(one.ids, skip_special_tokens=True) for one in written]
    texts = [text.strip().split("\n")[0] for text in texts]
    scores = decoder.label_scores(prompter.rest(texts), trie, prefix)
    spent = time.perf_counter() - start
    return {"generated": scores, "generated_texts": np.array(texts), "generated_seconds": spent}


def score_features(cell: Cell, rows: Draw, size: Size, sides: Any) -> dict[str, Any]:
    """Return the arrays of a cell that spends the labelled rows of a direct one on a fit instead.

    All of them, demonstrations too, are read in the prompt without demonstrations: last hidden
    states for a probe, and what TF-IDF under logistic regression answers on the same rows.
    """
    import numpy as np

    from sapwood.context.prompter import Prompter
    from sapwood.readouts.tfidf import TfIdf

    decoder, tokenizer = sides
    known = (*rows.known, *rows.shown)
    prompter = Prompter(tokenizer, context_of(replace(rows, shown=()), size))
    found: dict[str, Any] = {}
    parts = {"known": known, "test": () if cell.seed else rows.test}
    for name, part in parts.items():
        if part:
            prompts = prompter.rest([e.text for e in part])
            states = decoder.features(prompts, decoder.encode(prompter.prefix))
            found[name] = states.astype(np.float16)
    texts, gold = [e.text for e in known], [str(e.label) for e in known]
    words = TfIdf.fit(texts, gold, labels=rows.labels)
    found["tfidf"] = words.probabilities([e.text for e in rows.test]).argmax(1)
    return found | gold_of(replace(rows, known=known))


def write(path: Path, arrays: dict[str, Any], about: dict[str, Any]) -> None:
    """Write a cell, whole or not at all."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (arrays, about) of a cell."""
    import numpy as np

    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(str(arrays.pop("about")))


def collect(
    cells: Sequence[Cell], folder: Path, work: Callable[[Cell], tuple[dict[str, Any], Any]]
) -> Iterator[str]:
    """Do the cells that have no file yet; yield a line with the time left after each."""
    todo = [cell for cell in cells if not cell.path(folder).is_file()]
    kinds: dict[tuple[Any, ...], list[float]] = {}
    for number, cell in enumerate(todo):
        start = time.perf_counter()
        arrays, about = work(cell)
        spent = time.perf_counter() - start
        write(cell.path(folder), arrays, {**about, "cell": asdict(cell), "seconds": spent})
        kinds.setdefault((cell.data, cell.base, cell.shots), []).append(spent)
        mean = sum(map(sum, kinds.values())) / (number + 1)
        left = sum(
            sum(seen) / len(seen) if (seen := kinds.get((c.data, c.base, c.shots))) else mean
            for c in todo[number + 1 :]
        )
        name = cell.path(folder).stem.replace("--", " ")
        yield f"{number + 1}/{len(todo)} {name}: {spent:.1f} s, about {left / 60:.0f} min left"
