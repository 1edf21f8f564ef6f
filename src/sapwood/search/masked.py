"""Candidates on an encoder with a masked-language-model head: label words at a mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sapwood.context.prompter import Context
from sapwood.context.select import Stratified
from sapwood.evaluation.masked import MaskedReader
from sapwood.search import label_words
from sapwood.search.candidate import Candidate, entry
from sapwood.search.encoders import HEAD, methods_of
from sapwood.search.label_words import Words
from sapwood.search.workbench import Making, Workbench
from sapwood.training.masked import MaskedSupervision

SHOTS = 4  # demonstrations, in every text; a BERT reads 512 tokens
PREFIX = "masked-"  # before the name of a method that is trained on the words, not on a head


def masked_ladder(bench: Workbench) -> Iterator[Candidate]:
    """Yield what the head makes possible; nothing where the base has none."""
    if bench.bases.get(bench.job.model).masked is None:
        return
    yield entry("zero-shot", asked, shots=0)
    yield entry("few-shot", asked, f"few-shot-{SHOTS}", shots=SHOTS)
    names = [name for name in methods_of(bench.job) if name != HEAD]
    for number, method in enumerate(names):
        share = 1 / (2 * len(names) - number)  # the same methods on a head come after
        yield entry(method, tuned, f"{PREFIX}{method}", method=method, share=share)


def asked(bench: Workbench, name: str, *, shots: int) -> Making:
    """Make a candidate that fills in label words, with demonstrations before or without any."""
    return (yield from label_words.asked(bench, name, _reader(bench, shots)))


def tuned(bench: Workbench, name: str, *, method: str, share: float = 1.0) -> Making:
    """Make the candidate `name`: the methods that `method` names, trained on the label words."""
    reader, train = _reader(bench), bench.splits.train
    rows = reader.rows([e.text for e in train])
    words = Words(
        net=reader.words.encoder.net,
        reader=reader,
        supervision=MaskedSupervision(reader.words, rows, bench.index(train)),
        normalise="vocabulary",
        encoder=True,
    )
    return (yield from label_words.tuned(bench, name, method, words, share=share))


def _reader(bench: Workbench, shots: int = 0) -> MaskedReader:
    return MaskedReader(bench.bases, bench.job.model, _context(bench, shots), bench.labels)


def _context(bench: Workbench, shots: int) -> Context:
    """Return the job's template without an instruction, which such a base cannot follow."""
    shown, train = [], bench.splits.train
    if shots:
        few = min(shots, len(train) // 2)
        (numbers,) = Stratified().select(train, [], few, bench.job.seed, labels=bench.labels)
        shown = [train[n] for n in numbers]
    context = bench.context(shown, selection="stratified", shots=len(shown))
    return replace(context, template=replace(context.template, instruction=""))
