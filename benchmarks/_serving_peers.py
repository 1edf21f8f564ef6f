"""The peers of benchmarks/serving.py on the same weights and prompts: PEFT, two servers.

Each peer is asked for as many tokens, greedily; a server by eight clients at once, over HTTP.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _serving_gguf import write_base, write_lora
from _serving_sides import Work

LLAMA_CPP = "llama.cpp's server is absent: pip install xllamacpp"
SERVE = "transformers serve is absent: pip install 'transformers[serving]'"
START = 120  # seconds a server may take to start


class Peft:
    """PEFT over transformers' `generate`, all adapters loaded beforehand."""

    def __init__(self, work: Work, runtime: Any) -> None:
        import torch
        from peft import PeftModel

        from sapwood.context.turns import end_ids
        from sapwood.models.load import load_base

        self.tokens = work.tokens
        base = load_base(work.base, runtime)
        net = base.net
        self.ends = list(end_ids(base.tokenizer, net.generation_config.eos_token_id))
        net.set_attn_implementation("sdpa")
        (first, folder), *others = work.folders.items()
        settings = {"autocast_adapter_dtype": False}
        self.net = PeftModel.from_pretrained(net, folder, adapter_name=first, **settings)
        for name, folder in others:
            self.net.load_adapter(folder, adapter_name=name, **settings)
        self.net.to(torch.float32 if runtime.dtype == "float32" else torch.bfloat16).eval()

    def _say(self, prompts: Sequence[Sequence[int]], **more: Any) -> list[list[int]]:
        import torch

        given = torch.tensor([list(prompt) for prompt in prompts])
        settings = {"do_sample": False, "pad_token_id": 0, "eos_token_id": self.ends, **more}
        with torch.no_grad():
            said = self.net.generate(
                input_ids=given, attention_mask=torch.ones_like(given),
                max_new_tokens=self.tokens, min_new_tokens=self.tokens, **settings,
            )  # fmt: skip
        return said[:, given.shape[1] :].tolist()

    def switched(self, work: Work, models: Sequence[str]) -> tuple[float, list[list[int]]]:
        """Answer the rows of each adapter in a batch, adapter by adapter."""
        begun = time.perf_counter()
        found: list[list[int]] = [[] for _ in models]
        for name in dict.fromkeys(models):
            own = [n for n, model in enumerate(models) if model == name]
            self.net.set_adapter(name)
            for n, said in zip(own, self._say([work.prompts[n] for n in own]), strict=True):
                found[n] = said
        return self._pace(found, begun)

    def mixed(self, work: Work, models: Sequence[str]) -> tuple[float, list[list[int]]]:
        """Answer all in one batch, each row with its own `adapter_names`."""
        begun = time.perf_counter()
        said = self._say(work.prompts[: len(models)], adapter_names=list(models))
        return self._pace(said, begun)

    @staticmethod
    def _pace(found: list[list[int]], begun: float) -> tuple[float, list[list[int]]]:
        return sum(map(len, found)) / (time.perf_counter() - begun), found


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server over HTTP: where it completes prompts, what a request says, what comes back.

    `process`: its number, 0 for this one.
    """

    address: str
    request: Callable[[int, Sequence[int]], dict[str, Any]]
    tokens: Callable[[dict[str, Any]], int]
    process: int = 0

    def cpu(self) -> float:
        """Return the CPU seconds that its own process has used, 0 where it has none."""
        if not self.process:
            return 0.0
        fields = Path(f"/proc/{self.process}/stat").read_text(encoding="ascii")
        user, system = fields.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _post(self, number: int, prompt: Sequence[int]) -> dict[str, Any]:
        body = json.dumps(self.request(number, prompt)).encode()
        asked = urllib.request.Request(
            self.address, body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(asked, timeout=600) as answer:
            return dict(json.load(answer))

    def together(self, prompts: Sequence[Sequence[int]]) -> tuple[float, list[dict[str, Any]]]:
        """Ask all at once; return (tokens a second, answers)."""
        with ThreadPoolExecutor(len(prompts)) as threads:
            begun = time.perf_counter()
            found = list(threads.map(self._post, range(len(prompts)), prompts))
            took = time.perf_counter() - begun
        return sum(map(self.tokens, found)) / took, found


@contextmanager
def llama_cpp(
    work: Work, kind: str, folder: Path, threads: int, *, adapted: bool
) -> Iterator[Server]:
    """Yield llama.cpp's server over a GGUF file of the base's weights, and of its adaptations."""
    import xllamacpp

    net, tokenizer = work.bases.get(work.base).net, work.bases.get(work.base).tokenizer
    file = folder / f"{kind}.gguf"
    if not file.exists():
        write_base(net, tokenizer, file, kind)
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_parallel, params.n_ctx = 8, 8 * 256
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_prompt, params.n_gpu_layers, params.verbosity, params.port = False, 0, -1, _port()
    loras = []
    for name in work.names[:8] if adapted else ():
        lora = folder / f"{name}.gguf"
        if not lora.exists():
            write_lora(work.folders[name], net, lora)
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(lora), 0.0
        loras.append(info)
    params.lora_adapters = loras
    with _quiet():
        server = xllamacpp.Server(params)

    def request(number: int, prompt: Sequence[int]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt": list(prompt), "n_predict": work.tokens, "temperature": 0,
            "ignore_eos": True, "cache_prompt": False, "return_tokens": True,
        }  # fmt: skip
        if adapted:
            body["lora"] = [{"id": number, "scale": 1.0}]
        return body

    yield Server(
        address=f"{server.listening_address}/completion",
        request=request, tokens=lambda got: int(got["tokens_predicted"]),
    )  # fmt: skip
    del server


@contextmanager
def transformers_serve(work: Work, dtype: str, threads: int, *flags: str) -> Iterator[Server]:
    """Yield `transformers serve` over the base, a process of its own."""
    from sapwood.models.store import BASES, locate

    folder = str(locate(work.base) if work.base in BASES else work.base)
    port = _port()
    command = [
        str(Path(sys.executable).with_name("transformers")), "serve", folder, "--port", str(port),
        "--device", "cpu", "--dtype", dtype, *flags,
    ]  # fmt: skip
    settings = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    tokenizer = work.bases.get(work.base).tokenizer
    exact = json.dumps({
        "do_sample": False, "min_new_tokens": work.tokens, "max_new_tokens": work.tokens,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0,
    })  # fmt: skip

    def request(number: int, prompt: Sequence[int]) -> dict[str, Any]:
        return {
            "model": folder, "prompt": tokenizer.decode(list(prompt)),
            "max_tokens": work.tokens, "temperature": 0, "generation_config": exact,
        }  # fmt: skip

    try:
        _started(f"http://localhost:{port}/health", process)
        yield Server(
            address=f"http://localhost:{port}/v1/completions",
            request=request, tokens=lambda got: int(got["usage"]["completion_tokens"]),
            process=process.pid,
        )  # fmt: skip
    finally:
        process.terminate()
        process.wait(30)


def absent() -> list[str]:
    """Return a sentence for each server that is not installed."""
    found = []
    if find_spec("xllamacpp") is None:
        found.append(LLAMA_CPP)
    tool = Path(sys.executable).with_name("transformers")
    if not tool.exists() or any(find_spec(name) is None for name in ("uvicorn", "openai")):
        found.append(SERVE)
    return found


def _port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def _started(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until:
        assert process.poll() is None, "transformers serve ended before it answered"
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"transformers serve did not start within {START} s")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a library that writes to the process's own stdout and stderr silent."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for file in (*kept, nowhere):
            os.close(file)
