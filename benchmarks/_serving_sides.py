"""What benchmarks/serving.py asks of a pool: adaptations to serve, prompts, requests with times."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from common import median, sentiment_rows, shuffled

ROWS = 8  # of a batch
MOVED = 0.03  # added to the trained tensors at random: enough that answers differ
ZIPF = 1.5  # as in Punica's measurements (arXiv 2310.18547)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A base, LoRA adaptations of it by name, prompts of equal length as token ids."""

    bases: Any
    base: str
    folders: Mapping[str, Path]
    prompts: Sequence[tuple[int, ...]]
    tokens: int  # of each answer

    @property
    def names(self) -> list[str]:
        """Return the adaptations' names."""
        return list(self.folders)

    def turn(self, number: int) -> Work:
        """Return the same with other prompts first: none may profit from those it has read."""
        first = number * ROWS % len(self.prompts)
        return replace(self, prompts=[*self.prompts[first:], *self.prompts[:first]])


class Heard:
    """What one request got and when, in seconds of `time.perf_counter`."""

    def __init__(self, begun: float) -> None:
        self.begun, self.text, self.tokens, self.cached = begun, "", 0, 0
        self.times: list[float] = []
        self.endings: list[str] = []
        self.ended = threading.Event()

    def __call__(self, update: Any) -> None:
        if update.tokens > self.tokens:
            self.tokens = update.tokens
            self.times.append(time.perf_counter())
        self.text, self.cached = self.text + update.text, update.cached
        if update.finish:
            self.endings.append(f"error {update.error.code}" if update.error else update.finish)
            self.ended.set()

    @property
    def first(self) -> float:
        """Return seconds to the first token."""
        return self.times[0] - self.begun

    @property
    def between(self) -> list[float]:
        """Return seconds between tokens."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99, in milliseconds."""
    order = sorted(values)
    at = {f"p{p}": order[min(len(order) - 1, len(order) * p // 100)] for p in (50, 95, 99)}
    return {name: round(1000 * value, 1) for name, value in at.items()}


def resident_bytes() -> int:
    """Return this process's resident memory."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) << 10
    raise OSError("no VmRSS in /proc/self/status")


def zipf_weights(count: int, exponent: float = ZIPF) -> list[float]:
    """Return cumulated weights of `count` ranks, for `random.choices`."""
    return list(accumulate((rank + 1) ** -exponent for rank in range(count)))


def drawn(names: Sequence[str], popularity: str, count: int, seed: int = 0) -> list[str]:
    """Return which adaptation each of `count` requests asks."""
    if popularity == "identical":
        return [names[0]] * count
    if popularity == "distinct":
        return [names[n % len(names)] for n in range(count)]
    rng = random.Random(seed)
    return rng.choices(names, cum_weights=zipf_weights(len(names)), k=count)


def move(net: Any, seed: int, scale: float) -> None:
    """Move what is trained on a net away from where it starts."""
    import torch

    from sapwood.methods import parts

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in sorted(parts.weights(net).items()):
            drawn_ = torch.randn(tensor.shape, generator=generator)
            tensor.add_((scale * drawn_).to(tensor.device, tensor.dtype))


def write_loras(bases: Any, base: str, root: Path, count: int, method: Any) -> dict[str, Path]:
    """Write adaptations of one method, each with tensors of its own."""
    from sapwood.methods import parts
    from sapwood.methods.folder import write_method

    net = bases.get(base).net
    found = {}
    for number in range(count):
        name = f"lora-{number}"
        method.attach(net, seed=number)
        move(net, number, MOVED)
        write_method(parts.stored(net), method, root / name, base=base, transposed=False)
        parts.detach(net)
        found[name] = root / name
    return found


def prompts_of(tokenizer: Any, length: int, count: int, *, smoke: bool) -> list[tuple[int, ...]]:
    """Return prompts of `length` tokens from real texts."""
    rows = shuffled(sentiment_rows(smoke=smoke).train)
    ids: list[int] = []
    for row in rows * 4:
        ids += tokenizer(row.text + "\n", add_special_tokens=False)["input_ids"]
        if len(ids) >= length * count:
            break
    return [tuple(ids[n * length : (n + 1) * length]) for n in range(count)]


def sampling(tokens: int) -> Any:
    """Return greedy writing of exactly so many tokens."""
    from sapwood.models.choosing import Sampling

    return Sampling(tokens=tokens, least_tokens=tokens)


def ask(pool: Any, model: str, ids: Sequence[int], tokens: int, begun: float = 0.0) -> Heard:
    """Send a request and return where its answer comes; raises Busy."""
    from sapwood.pool.wish import Wish

    heard = Heard(begun or time.perf_counter())
    pool.write(
        Wish(
            model=pool.base if model == pool.source else model,
            ids=tuple(ids),
            sampling=sampling(tokens),
        ),
        heard,
    )
    return heard


def wait(heard: Heard) -> Heard:
    """Wait for a whole answer; whatever is no answer ends the benchmark."""
    assert heard.ended.wait(600), "no answer in ten minutes"
    assert heard.endings[0] in ("stop", "length"), heard.endings
    return heard


def together(pool: Any, work: Work, models: Sequence[str]) -> tuple[float, list[str]]:
    """Ask all at once; return (tokens a second, answers)."""
    begun = time.perf_counter()
    asked = [ask(pool, m, p, work.tokens) for m, p in zip(models, work.prompts, strict=False)]
    done = [wait(heard) for heard in asked]
    took = time.perf_counter() - begun
    return sum(heard.tokens for heard in done) / took, [heard.text for heard in done]


def warm(pool: Any, work: Work, models: Sequence[str]) -> None:
    """Ask for a few tokens, which are not timed."""
    together(pool, replace(work, tokens=2), models)


def in_turn(pool: Any, work: Work, models: Sequence[str]) -> tuple[float, list[str]]:
    """Ask one after the other; return (tokens a second, answers)."""
    begun, done = time.perf_counter(), []
    for model, prompt in zip(models, work.prompts, strict=False):
        done.append(wait(ask(pool, model, prompt, work.tokens)))
    took = time.perf_counter() - begun
    return sum(heard.tokens for heard in done) / took, [heard.text for heard in done]


def open_one(work: Work, names: Sequence[str], **settings: Any) -> Any:
    """Return a pool over the loaded base that serves these adaptations."""
    from sapwood.pool.pool import Pool

    given = {"slots": 8, "resident": max(1, len(names)), "queue": 64, "tokens": 1024, **settings}
    pool = Pool(work.bases, work.base, **given)
    for name in names:
        pool.open(name, work.folders[name])
    return pool


def paired(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of ratios, of measurements made in turn."""
    return median([a / b for a, b in zip(values, others, strict=True)])
