"""Which engine computes the losses of what trains: torch, or TensorFlow on the same arrays."""

from __future__ import annotations

from typing import Any

from sapwood.errors import ConfigError
from sapwood.evaluation import Bases
from sapwood.methods.together import Together, parse
from sapwood.search.job import UNMASKED, Job, bare, trained_families
from sapwood.search.workbench import Stopped
from sapwood.tasks.kinds import ONE_LABEL
from sapwood.training import Supervision
from sapwood.training.heads import HeadSupervision

HEAD = "head"  # no method: the head of an encoder alone


def check_engine(job: Job, bases: Bases) -> None:
    """Raise what would stop the engine that the job asks for, before anything is tried.

    ConfigError: E-CONFIG-260 TensorFlow is not installed, E-CONFIG-261 it does not compute a
    method, E-CONFIG-264 it has no way to do this job; ModelError (E-MODEL-090) it does not compute
    this base.
    """
    if job.tuning.engine == "torch":
        return
    from sapwood.tensorflow.arrays import check
    from sapwood.tensorflow.arrival import tensorflow

    problems = []
    if job.task not in ONE_LABEL:
        problems.append(f"the task is '{job.task}'")
    if job.tuning.checkpointing:
        problems.append("--checkpointing is asked for")
    if any(family.endswith(UNMASKED) for family in job.only):
        problems.append("a decoder is to be read as an encoder")
    if problems:
        raise ConfigError(
            "E-CONFIG-264", "The engine 'tensorflow' tunes one label a text, plainly.",
            details=problems, fix="--engine torch",
        )  # fmt: skip
    for family in trained_families(job.only):
        _check_method(bare(family))
    tensorflow()
    for name in (job.model, job.encoder):
        if name:
            check(bases.get(name).net.config)


def _check_method(text: str) -> None:
    """Raise ConfigError (E-CONFIG-261) for methods that TensorFlow does not compute."""
    from sapwood.tensorflow.attached import METHODS

    if text == HEAD:
        return
    made = parse(text)
    own = made.methods if isinstance(made, Together) else (made,)
    lacking = [each.name for each in own if each.name not in METHODS]
    if lacking or (isinstance(made, Together) and made.gated):
        raise ConfigError(
            "E-CONFIG-261",
            f"The engine 'tensorflow' trains {', '.join(METHODS)}, not '{text}'.",
            fix="--engine torch, or --method lora",
        )


def computed_by(job: Job, supervision: Any) -> Any:
    """Return `supervision` itself, or TensorFlow's of the same rows where the job asks for it.

    Raises Stopped for a loss that TensorFlow does not compute here, and what
    `sapwood.tensorflow.supervision` raises.
    """
    if job.tuning.engine == "torch":
        return supervision
    from sapwood.tensorflow import supervision as second

    if type(supervision) is Supervision:
        return second.under_words(supervision, xla=job.tuning.xla)
    if type(supervision) is HeadSupervision:
        return second.under_head(supervision, xla=job.tuning.xla)
    raise Stopped("the engine 'tensorflow' trains label words of a decoder and heads on encoders")
