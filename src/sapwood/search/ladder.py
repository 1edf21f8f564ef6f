"""The candidates from cheapest to dearest, each tried once, each leaving its result on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sapwood.adaptation import save, size_on_disk
from sapwood.checkpoint import remove_checkpoints
from sapwood.errors import SapwoodError
from sapwood.evaluation import sealed
from sapwood.files import new_folder, write_json
from sapwood.interfaces import Event
from sapwood.search import encoders, plain, prefixed, prompting, tuning
from sapwood.search.candidate import Candidate, entry, trained
from sapwood.search.contexts import Prompt
from sapwood.search.deciding import decided
from sapwood.search.job import CONTEXT, trained_families
from sapwood.search.masked import masked_ladder
from sapwood.search.memory import peak_bytes, reset_peak
from sapwood.search.rungs import written_ladder
from sapwood.search.text_to_text import text_to_text_ladder
from sapwood.search.workbench import Made, Stopped, Workbench

TRAINED = ("lora", "lora+context")  # on a decoder, when nothing was asked for
SHOTS = (4, 16)
MANY_SHOTS = 64
NEAREST_SHOTS = 8
BANK_SHOTS = 8
CHANNEL_LABELS = 8  # a query costs the channel one pass a label
# Candidates that show demonstrations begin in this share of the time, where some that train come
# after them. On SST-2 in 4 minutes they took 166 s; LoRA, left with 20 s, learnt nothing.
READING_SHARE = 0.5
# In half of that where those before were so far behind the best (points of 0 to 1): of entities in
# Chinese in 4 minutes 171 s went to demonstrations that were 58 and 61 points behind a dictionary.
FAR = 0.25
READING = ("zero-shot", "few-shot", "channel", "knn", "probe")  # none of them trains a net
_GOLDEN_ROWS = 4


def ladder(bench: Workbench) -> list[Candidate]:
    """Return the candidates this job wants, in the order they are tried: the cheap ones first."""
    job = bench.job
    if bench.written:
        return [c for c in written_ladder(bench) if job.wants(c.family)]
    if bench.bases.get(job.model).kind == "encoder":
        return [c for c in _on_encoder(bench) if job.wants(c.family)]
    if bench.bases.get(job.model).kind == "text-to-text":
        return [c for c in text_to_text_ladder(bench) if job.wants(c.family)]
    found = [
        entry("majority", plain.of_texts, readout="majority"),
        entry("tf-idf", plain.of_texts, readout="tf-idf"),
        *_encoder_beside(bench),
        *_unmasked(bench),
        entry("zero-shot", prompting.prompted, prompt=Prompt()),
        *_features(bench),
        *(_fixed(bench) if job.prompting.fixed else _prompts(bench)),
        entry("compressed", prefixed.compressed),
        *trained(trained_families(job.only) if job.only else TRAINED, tuning.tuned),
    ]
    prompts = [f for f in job.only if f.endswith(CONTEXT) or f == "compressed"]
    needed = {"few-shot"} if prompts else set()
    return [c for c in found if job.wants(c.family) or c.family in needed]


def _features(bench: Workbench) -> Iterator[Candidate]:
    """Yield the readouts on frozen features of the base."""
    mine = f"-{bench.job.model}" if bench.job.encoder else ""
    for family in encoders.FEATURES:
        yield entry(family, plain.of_decoder, f"{family}{mine}", readout=family)


def _on_encoder(bench: Workbench) -> Iterator[Candidate]:
    """Yield what can be done with an encoder as the job's base."""
    encoder = bench.job.model
    for family in encoders.BASELINES:
        yield entry(family, plain.of_texts, readout=family)
    for family in encoders.FEATURES:
        yield entry(family, plain.of_encoder, readout=family, encoder=encoder)
    yield from masked_ladder(bench)
    names = encoders.methods_of(bench.job)
    for number, name in enumerate(names):
        share = 1 / (len(names) - number)
        yield entry(name, encoders.tuned_encoder, method=name, encoder=encoder, share=share)


def _encoder_beside(bench: Workbench) -> Iterator[Candidate]:
    """Yield readouts on a small encoder beside a decoder, frozen and tuned.

    Often as good and far quicker to train and ask; and what comes after is stopped the sooner.
    """
    job = bench.job
    if not job.encoder:
        return
    for family in encoders.FEATURES:
        named = f"{family}-{Path(job.encoder).name}"
        yield entry(family, plain.of_encoder, named, readout=family, encoder=job.encoder)
    dear = not job.only or bool(trained_families(job.only))
    share = encoders.BESIDE if dear else 1.0
    yield entry("encoder-lora", encoders.tuned_encoder, method="lora", encoder=job.encoder,
                share=share)  # fmt: skip


def _unmasked(bench: Workbench) -> Iterator[Candidate]:
    """Yield the base read as an encoder under a head, for what label words say badly."""
    if bench.job.only or bench.task.name == "pairs":
        yield from encoders.unmasked(bench, encoders.tuned_encoder)


def _prompts(bench: Workbench) -> Iterator[Candidate]:
    """Yield prompts from few demonstrations to many, then what each query chooses for itself."""

    def few(name: str, **settings: Any) -> Candidate:
        return entry("few-shot", prompting.prompted, name, prompt=Prompt(**settings))

    for shots in SHOTS:
        yield few(f"few-shot-{shots}", shots=shots)
    yield few("few-shot-ordered", reuse=True, order="likelihood")
    if len(bench.labels) <= CHANNEL_LABELS:
        yield entry("channel", prompting.prompted, prompt=Prompt(reuse=True, scorer="channel"))
    for family in ("knn", "probe"):
        yield entry(family, plain.of_decoder, f"{family}-few-shot", readout=family,
                    under_context=True)  # fmt: skip
    yield few(f"few-shot-{MANY_SHOTS}", shots=MANY_SHOTS)
    yield few("few-shot-bank", shots=BANK_SHOTS, selection="bank")
    near = "nearest" if bench.job.encoder else "bm25"
    yield few(f"few-shot-{NEAREST_SHOTS}-{near}", shots=NEAREST_SHOTS, selection=near)
    if bench.job.encoder:
        yield few(f"few-shot-{NEAREST_SHOTS}-dpp", shots=NEAREST_SHOTS, selection="dpp")


def _fixed(bench: Workbench) -> Iterator[Candidate]:
    """Yield the prompts that the user asked for."""
    asked = bench.job.prompting
    selection = asked.selection or "stratified"
    for shots in asked.shots or SHOTS:
        words = ["few-shot", str(shots)] if shots else ["zero-shot"]
        words += [w for w in (asked.selection if shots else None, asked.scorer) if w]
        prompt = Prompt(
            shots=shots, selection=selection, order=asked.order or "given",
            scorer=asked.scorer, encoding=asked.encoding,
        )  # fmt: skip
        if words != ["zero-shot"]:
            yield entry("few-shot", prompting.prompted, "-".join(words), prompt=prompt)


def _ended(error: SapwoodError) -> dict[str, Any]:
    """Return what is said of a candidate that an error ended; one that does not fit was no fault.

    >>> _ended(SapwoodError("E-MODEL-030", "A prompt has 9 tokens; 8 fit."))["status"]
    'stopped'
    """
    if error.code == "E-MODEL-030":  # its prompt is longer than the base reads
        return {"status": "stopped", "why": error.what, "dev": None}
    return {"status": "failed", "why": f"{error.code}: {error.what}", "dev": None}


def climb(bench: Workbench) -> Iterator[Event]:
    """Try every candidate that has no result yet, yielding what happens."""
    wanted = ladder(bench)
    for place, candidate in enumerate(wanted):
        folder = bench.candidate_folder(candidate.name)
        if _settled(folder / "result.json", bench.job.seconds):
            bench.recall(candidate.name)
            remove_checkpoints(folder)  # a kill may have come before this
            yield Event(kind="end", candidate=candidate.name, note="done before")
            continue
        yield Event(kind="start", candidate=candidate.name)
        reset_peak()
        bench.bases.forget()  # a result must not depend on what ran before
        started = time.monotonic()
        spent = _spent_before(folder)
        result: dict[str, Any] = {"name": candidate.name, "family": candidate.family}
        try:
            bench.clock.require(1.0)
            _leave_time(bench, candidate, [c.family for c in wanted[place + 1 :]])
            made = yield from candidate.make(bench, candidate.name)
            result |= _finished(bench, candidate.name, made, folder)
        except Stopped as stop:
            result |= {"status": "stopped", "why": stop.why, "dev": _partial(bench, stop.dev)}
        except SapwoodError as error:
            result |= _ended(error)
            if error.code.startswith("E-RESOURCE-00"):
                raise  # the disk is full or not writable: going on would lose every result
        except Exception as error:  # a candidate that fails is reported; the others go on
            result |= {"status": "failed", "why": f"{type(error).__name__}: {error}", "dev": None}
        except GeneratorExit:
            write_json(folder / "spent.json", {"seconds": spent + time.monotonic() - started})
            raise
        result["fit_seconds"] = round(spent + time.monotonic() - started, 3)
        result |= {"peak_bytes": peak_bytes(), "budget": bench.job.seconds}
        write_json(folder / "result.json", result)
        bench.clock.save()
        bench.recall(candidate.name)
        remove_checkpoints(folder)
        yield Event(kind="end", candidate=candidate.name, note=_line(result))


def _leave_time(bench: Workbench, candidate: Candidate, later: Sequence[str]) -> None:
    """Raise Stopped where showing more demonstrations would take the time of what trains `later`.

    The first few-shot candidate begins whatever the time, as training under a context needs one; a
    probe does where the neighbours have read its rows already.
    """
    name, tried = candidate.name, bench.results
    shown = [known for known, result in tried.items() if result["family"] == "few-shot"]
    under_context = candidate.family == "channel" or "few-shot" in name
    free = name.startswith("probe") and name.replace("probe", "knn", 1) in bench.finished
    if not under_context or free or (candidate.family == "few-shot" and not shown):
        return
    trains = any(family not in READING for family in later)
    share = READING_SHARE * (0.5 if _far_behind(bench, shown) else 1.0)
    if trains and bench.clock.spent > share * (bench.clock.budget - bench.reserve(name)):
        raise Stopped(
            f"{bench.clock.left:.0f} s are left, and the rest is kept for candidates that train"
        )


def _far_behind(bench: Workbench, names: Sequence[str]) -> bool:
    """Tell whether the best of these is further behind the leader than more of its kind mends."""
    leader = bench.best()
    scores = [bench.results[name].get("dev") for name in names]
    values = [dev["value"] for dev in scores if dev and not dev["metric"].startswith("bits")]
    return leader is not None and max(values, default=1.0) < bench.value(leader[0]) - FAR


def _settled(path: Path, seconds: float) -> bool:
    """Return whether a result stands: one that was stopped is tried again with a larger budget."""
    if not path.exists():
        return False
    result = json.loads(path.read_text())
    return bool(result["status"] != "stopped" or result["budget"] >= seconds)


def _spent_before(folder: Path) -> float:
    path = folder / "spent.json"
    return float(json.loads(path.read_text())["seconds"]) if path.exists() else 0.0


def _finished(bench: Workbench, name: str, made: Made, folder: Path) -> dict[str, Any]:
    """Save the candidate's adaptation and return its result."""
    made = decided(bench, made)
    adaptation = sealed(made.adaptation, bench.bases, bench.splits.dev[:_GOLDEN_ROWS])
    save(adaptation, folder / "adaptation")
    size = size_on_disk(folder / "adaptation")
    job = bench.job
    milliseconds = 1000 * made.query_seconds
    with new_folder(folder / "dev") as part:
        bench.marks.keep(part / bench.said(folder).name, made.dev)
    base = adaptation.base.name if adaptation.base else None
    result = {
        "status": "finished",
        "why": "",
        "dev": _score(bench, made.dev),
        "parts": adaptation.parts(),
        "base": base,
        "trainable_parameters": made.trainable,
        "artifact_bytes": size,
        "ms_per_query": milliseconds,
        "read_ms": milliseconds if made.read_seconds is None else 1000 * made.read_seconds,
        "tokens_per_query": made.query_tokens,
        "curve": made.curve,
        "notes": made.notes,
        "forecast_seconds": made.forecast_seconds,
    }
    over = []
    if job.max_bytes is not None and size > job.max_bytes:
        over.append(f"{size:,} bytes, more than --max-bytes {job.max_bytes:,}")
    if job.max_ms is not None and milliseconds > job.max_ms:
        over.append(f"{milliseconds:.1f} ms a query, more than --max-ms {job.max_ms:g}")
    if over:
        result |= {"status": "stopped", "why": "; ".join(over)}
    return result


def _score(bench: Workbench, said: Any) -> dict[str, Any]:
    score = bench.tally(said).interval(bench.job.seed)
    return {
        "metric": score.metric, "value": score.value, "low": score.low, "high": score.high,
        "rows": len(said),
    }  # fmt: skip


def _partial(bench: Workbench, said: Any) -> dict[str, Any] | None:
    return None if said is None or not len(said) else _score(bench, said)


def _line(result: dict[str, Any]) -> str:
    if result["status"] != "finished":
        return f"{result['status']}: {result['why']}"
    dev = result["dev"]
    return (
        f"dev {dev['value']:.3f} ({dev['low']:.3f} to {dev['high']:.3f}), "
        f"{result['fit_seconds']:.1f} s, {result['ms_per_query']:.1f} ms a query"
    )
