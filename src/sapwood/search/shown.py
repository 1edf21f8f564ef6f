"""What the report shows of single rows: prompts as the model sees them, and the worst errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sapwood.context.facts import fact_blocks
from sapwood.context.prompter import Context
from sapwood.context.template import is_chinese
from sapwood.evaluation.chooser import Chooser
from sapwood.interfaces import Example, Floats
from sapwood.search.workbench import Workbench

ERRORS, NEIGHBOURS, EXAMPLES = 10, 2, 3


def rendered_examples(bench: Workbench, recommended: str) -> list[dict[str, Any]]:
    """Return three development rows as tokens with roles, with the recommended's answers."""
    made = bench.finished[recommended]
    context = made.context
    if context is None:
        return []
    tokenizer = bench.bases.get(bench.job.model).tokenizer
    found = []
    rows = bench.splits.dev[:EXAMPLES]
    texts = [e.text for e in rows]
    chosen = Chooser(bench.bases, context, bench.labels, bench.embedder(context)).choose(texts)
    chinese = is_chinese([context.template.before])
    known = fact_blocks(made.facts, texts, chinese=chinese) if made.facts else None
    for number, example in enumerate(rows):
        shown = [context.demonstrations[place] for place in chosen[number]]
        pieces = _pieces(context, shown, example)
        if known is not None and known[number]:  # demonstrations have theirs too, not shown here
            pieces.insert(len(pieces) - 2, ("fact", known[number]))
        tokens = [
            {"text": token, "role": role}
            for role, piece in pieces
            for token in _tokens(tokenizer, piece)
        ]
        said = bench.labels[int(np.argmax(bench.dev[recommended][number]))]
        found.append(
            {
                "candidate": recommended,
                "tokens": tokens,
                "label": example.label,
                "predicted": said,
            }
        )
    return found


def _pieces(context: Context, shown: Sequence[Example], example: Example) -> list[tuple[str, str]]:
    template = context.template
    pieces = []
    if template.instruction:
        pieces.append(("instruction", template.instruction + template.separator))
    pieces += [("demonstration", template.demonstration(d) + template.separator) for d in shown]
    pieces.append(("query", template.query(example.text)))
    pieces.append(("answer", template.words[str(example.label)]))
    return pieces


def _tokens(tokenizer: Any, text: str) -> list[str]:
    """Return the pieces of `text` that its tokens cover; tokens inside one character are joined."""
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    found, end = [], 0
    for _, stop in coded["offset_mapping"]:
        if stop > end:
            found.append(text[end:stop])
            end = stop
    return [*found, text[end:]] if end < len(text) else found


def worst_errors(
    bench: Workbench, rows: Sequence[Example], probabilities: Floats, said: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the most confident errors with the nearest training rows of each."""
    confidence = probabilities.max(axis=1)
    wrong = [n for n, e in enumerate(rows) if said[n] != e.label]
    wrong = sorted(wrong, key=lambda n: -float(confidence[n]))[:ERRORS]
    near = _nearest(bench, [rows[n] for n in wrong])
    return [
        {
            "text": rows[n].text,
            "label": rows[n].label,
            "predicted": said[n],
            "probability": float(confidence[n]),
            "nearest": nearest,
        }
        for n, nearest in zip(wrong, near, strict=True)
    ]


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = vectors / np.maximum(lengths, 1e-9)
    return scaled


def _nearest(bench: Workbench, rows: Sequence[Example]) -> list[list[dict[str, Any]]]:
    """Return for each row its nearest training rows, by the encoder or by TF-IDF words."""
    if not rows:
        return []
    train, texts = bench.splits.train, [e.text for e in rows]
    if bench.job.encoder:
        known, _ = bench.embed(bench.job.encoder, "train", train)
        asked = bench.bases.embed(bench.job.encoder, texts, limit=bench.job.max_length)
        similar = _unit(asked) @ _unit(known).T
    else:
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3), max_features=20_000)
        known = words.fit_transform([e.text for e in train])  # rows of length 1, sparse
        similar = (words.transform(texts) @ known.T).toarray()
    return [
        [
            {"text": train[n].text, "label": train[n].label, "similarity": float(row[n])}
            for n in np.argsort(-row)[:NEIGHBOURS]
        ]
        for row in similar
    ]
