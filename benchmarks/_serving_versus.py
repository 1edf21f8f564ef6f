"""The pool beside its peers: all of them open at once, asked in turn, answers compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import _serving_peers as peers
from _serving_sides import ROWS, Work, open_one, paired, together
from common import contention, median, say

# Left to itself its cache takes 90 % of the memory and tens of seconds to make.
CB = ("--continuous-batching", "--cb-num-blocks", "128", "--cb-block-size", "32",
      "--cb-max-batch-tokens", "1024")  # fmt: skip
Ask = Callable[[Work], tuple[float, list[Any]]]


@dataclass
class Side:
    """One peer: `asks` "base" or "distinct"; paces, and answers that were as the pool's.

    `process`: CPU seconds of a process of its own; `cpu`: of all that works for it, a token.
    """

    asks: str
    ask: Ask
    process: Callable[[], float] = float
    cpu: list[float] = field(default_factory=list)
    paces: list[float] = field(default_factory=list)
    alike: int = 0


def _opened(stack: ExitStack, server: AbstractContextManager[peers.Server], asks: str) -> Side:
    """Return the side of a server, which runs until the stack ends."""
    found = stack.enter_context(server)
    return Side(asks, lambda now: found.together(now.prompts[:ROWS]), found.cpu)


@contextmanager
def _sides(work: Work, root: Path, threads: int, missing: list[str]) -> Iterator[dict[str, Side]]:
    """Yield the pool's two sides and the peers that are there."""
    names = work.names
    with ExitStack() as stack:
        base, pool = open_one(work, ()), open_one(work, names)
        stack.callback(base.stop, 1)
        stack.callback(pool.stop, 1)
        peft = peers.Peft(work, work.bases.runtime)
        sides = {
            "base": Side("base", lambda now: together(base, now, [work.base] * ROWS)),
            "distinct": Side("distinct", lambda now: together(pool, now, names)),
            "peft_switched": Side("distinct", lambda now: peft.switched(now, names)),
            "peft_mixed": Side("distinct", lambda now: peft.mixed(now, names)),
        }
        if not missing or missing == [peers.LLAMA_CPP]:
            for name, flags in (("", ()), ("_batching", CB)):
                server = peers.transformers_serve(work, "float32", threads, *flags)
                sides[f"transformers_serve{name}"] = _opened(stack, server, "base")
        if not missing or missing == [peers.SERVE]:
            for kind, adapted in (("F32", False), ("Q8_0", False), ("F32", True)):
                llama = peers.llama_cpp(work, kind, root, threads, adapted=adapted)
                name = f"llama_cpp_{kind}" + ("_lora" if adapted else "")
                sides[name] = _opened(stack, llama, "distinct" if adapted else "base")
        yield sides


def peer_rows(
    work: Work, repeats: int, options: Any, root: Path, about: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return rows and ratios against the peers in float32, llama.cpp also in eight bits."""
    shown = work.bases.get(work.base).tokenizer.decode
    missing = ["left out: --smoke"] if options.smoke else peers.absent()
    small = replace(work, folders={name: work.folders[name] for name in work.names[:ROWS]})
    with _sides(small, root, options.threads, missing) as sides:
        for side in sides.values():
            side.ask(small.turn(-1))  # not timed, and of prompts that do not come again
        for number in range(repeats):
            now, said = small.turn(number), {}
            for name, side in sides.items():
                spent = time.process_time() + side.process()
                with contention(about):
                    pace, answers = side.ask(now)
                spent = time.process_time() + side.process() - spent
                side.cpu.append(spent / (ROWS * small.tokens))
                words = [_text(answer, shown) for answer in answers]
                said.setdefault(side.asks, words)
                side.paces.append(pace)
                side.alike += sum(a == b for a, b in zip(words, said[side.asks], strict=True))
                say(f"  {name}: {pace:.1f} tokens/s, {1000 * side.cpu[-1]:.1f} CPU ms a token")
    rows: list[dict[str, Any]] = [{"row": "absent", "why": why} for why in missing]
    rows += [
        {"row": "peer", "side": name, "asks": side.asks, "tokens_per_second": median(side.paces),
         "tokens_per_second_repeats": side.paces, "answers": ROWS * repeats,
         "answers_like_ours": side.alike, "cpu_ms_per_token": 1000 * median(side.cpu)}
        for name, side in sides.items()
    ]  # fmt: skip
    others = {name: side for name, side in sides.items() if name != side.asks}
    ratios = {
        f"{side.asks}8_vs_{name}": paired(sides[side.asks].paces, side.paces)
        for name, side in others.items()
    }
    return rows, ratios | {
        f"{side.asks}8_vs_{name}_cpu_time": paired(side.cpu, sides[side.asks].cpu)
        for name, side in others.items()
    }


def _text(answer: Any, shown: Any) -> str:
    """Return the words of an answer: text, token ids, or a server's JSON."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, dict):
        return str(answer["choices"][0]["text"] if "choices" in answer else shown(answer["tokens"]))
    return str(shown(answer, skip_special_tokens=True))
