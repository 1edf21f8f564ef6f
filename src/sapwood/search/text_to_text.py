"""Candidates on an encoder-decoder: its label words asked for as it is, and tuned."""

from __future__ import annotations

from collections.abc import Iterator

from sapwood.errors import ModelError
from sapwood.evaluation.text_to_text import TextToTextReader
from sapwood.search import label_words, plain
from sapwood.search.candidate import Candidate, entry
from sapwood.search.encoders import BASELINES
from sapwood.search.job import CONTEXT, FAMILIES, UNMASKED, Job, trained_families
from sapwood.search.label_words import Words
from sapwood.search.workbench import Making, Workbench
from sapwood.tasks.kinds import ONE_LABEL
from sapwood.training.text_to_text import TextToTextSupervision

ABLE = (*BASELINES, "zero-shot")


def check_wanted(job: Job) -> None:
    """Raise ModelError (E-MODEL-161) for what an encoder-decoder as --model cannot do."""
    # whoever asks for zero-shot asks for what can be prompted; the rest has no place here
    known = FAMILIES if "zero-shot" not in job.only else ()
    never = (CONTEXT, UNMASKED)
    lacking = [f for f in job.only if f.endswith(never) or (f in known and f not in ABLE)]
    if job.prompting.fixed:
        lacking.append("demonstrations")
    if job.task not in ONE_LABEL:
        lacking = [f"the task {job.task}"]
    if job.facts:
        lacking.append("--facts")
    if lacking:
        raise ModelError(
            "E-MODEL-161",
            f"'{job.model}' is an encoder-decoder, which is asked for label words, as it is or "
            f"tuned: no {', '.join(lacking)}.",
            fix="tune it on one label a text, or choose a decoder such as smollm2-135m",
        )


def text_to_text_ladder(bench: Workbench) -> Iterator[Candidate]:
    """Yield what can be done with an encoder-decoder as the job's base."""
    for family in BASELINES:
        yield entry(family, plain.of_texts, readout=family)
    yield entry("zero-shot", asked)
    names = trained_families(bench.job.only) if bench.job.only else ["lora"]
    for number, method in enumerate(names):
        yield entry(method, tuned, method=method, share=1 / (len(names) - number))


def asked(bench: Workbench, name: str) -> Making:
    """Make `zero-shot`: label words after the bare prompt."""
    return (yield from label_words.asked(bench, name, _reader(bench)))


def tuned(bench: Workbench, name: str, *, method: str, share: float = 1.0) -> Making:
    """Make the candidate `name`: the methods that `method` names, trained on the label words."""
    reader, train = _reader(bench), bench.splits.train
    net = bench.bases.get(bench.job.model).net
    supervision = TextToTextSupervision(
        reader.model, reader.rows([e.text for e in train]), bench.index(train), reader.trie
    )
    words = Words(net=net, reader=reader, supervision=supervision, normalise="trie", encoder=False)
    return (yield from label_words.tuned(bench, name, method, words, share=share))


def _reader(bench: Workbench) -> TextToTextReader:
    return TextToTextReader(bench.bases, bench.job.model, bench.context(), bench.labels)
