"""A search over rates and sizes of a method before it trains: short runs, judged by their loss.

Optuna (Akiba et al. 2019, arXiv 1907.10902) proposes (tree-structured Parzen estimator) and stops
what falls behind the median. Its journal lies in the candidate's folder: a search that was cut off
goes on, and a trial that was cut off goes on from its checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import Any

from sapwood.errors import ResourceError
from sapwood.interfaces import Event
from sapwood.methods.parts import Method
from sapwood.search.progress import Progress
from sapwood.search.workbench import Workbench

SHARE = 0.6  # of the time that training has; the rest trains with what was found
RATES = (0.1, 10.0)  # times the default rate
SIZES: dict[str, tuple[int, ...]] = {
    "rank": (4, 8, 16, 32),
    "width": (16, 32, 64, 128),
    "tokens": (8, 16, 32),
}
# What one trial is: a method, a rate, a name of its own, seconds, and a judge of its progress that
# says when to stop.
Attempt = Callable[
    ["Proposal", str, float, Callable[[Progress], bool]], Generator[Event, None, Progress]
]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A method and its learning rate."""

    method: Method
    rate: float


def searched(
    bench: Workbench, name: str, start: Proposal, attempt: Attempt
) -> Generator[Event, None, tuple[Proposal, list[dict[str, Any]]]]:
    """Return the best proposal around `start`, and all that was tried, after `tuning.trials`.

    Raises ResourceError (E-RESOURCE-017) without Optuna.
    """
    study = _study(bench, name)
    wanted = bench.job.tuning.trials
    each = SHARE * bench.tuning_seconds(name) / max(1, wanted - len(_ended(study)))
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "RUNNING":  # it was cut off: the same once more
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=_state("FAIL"))
    while len(_ended(study)) < wanted:
        trial = study.ask()
        proposal = _proposal(trial, start)
        own = f"{name}.trial-{_digest(trial.params)}"
        run = yield from attempt(proposal, own, each, _judge(trial))
        if not run.curve["dev"]:
            study.tell(trial, state=_state("FAIL"))
            break  # there is no time for even one evaluation
        study.tell(trial, -run.best[1])
        shutil.rmtree(bench.candidate_folder(own), ignore_errors=True)
        words = f"trial {len(_ended(study))} of {wanted}: {_words(trial.params)}"
        yield Event(kind="note", candidate=name, note=f"{words}, loss {-run.best[1]:.3f}")
    ended = _ended(study)
    tried = [{"params": trial.params, "loss": trial.value} for trial in ended]
    return (_proposal(study.best_trial, start) if ended else start), tried


def _study(bench: Workbench, name: str) -> Any:
    try:
        import optuna
    except ImportError:
        raise ResourceError(
            "E-RESOURCE-017", "A search over rates needs Optuna.",
            fix="pip install 'sapwood[search]', or leave out --trials",
        ) from None  # fmt: skip
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = bench.candidate_folder(name)
    seed = bench.job.seed
    return optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(folder / "trials.log"))),
        load_if_exists=True,
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=4),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0),
    )


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _ended(study: Any) -> list[Any]:
    return [t for t in study.get_trials(deepcopy=False) if t.value is not None]


def _proposal(trial: Any, start: Proposal) -> Proposal:
    """Return what a trial, new or finished, stands for."""
    method = start.method
    rate = start.rate * trial.suggest_float("factor", *RATES, log=True)
    names = {field.name for field in fields(method)}  # type: ignore[arg-type]
    for key, values in SIZES.items():
        if key not in names or (key == "rank" and "alpha" not in names):
            continue
        size = int(trial.suggest_categorical(key, values))
        changed: dict[str, Any] = {key: size}
        if key == "rank":
            changed["alpha"] = 2.0 * size
        method = replace(method, **changed)  # type: ignore[type-var]
    return Proposal(method=method, rate=rate)


def _judge(trial: Any) -> Callable[[Progress], bool]:
    """Return what reports a trial's evaluations and says whether it is to be stopped."""
    told: set[int] = set()

    def stop(run: Progress) -> bool:
        number = len(run.curve["dev"])
        if not number or number in told:
            return False
        told.add(number)
        trial.report(-run.best[1], number)
        return bool(trial.should_prune())

    return stop


def _digest(params: dict[str, Any]) -> str:
    return sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:10]


def _words(params: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
                     for k, v in params.items())  # fmt: skip
