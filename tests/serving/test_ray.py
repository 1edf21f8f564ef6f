"""The application over two copies of a base on a Ray cluster that is started for it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tests.pool.conftest import finding

from sapwood.errors import ConfigError, ResourceError
from sapwood.evaluation import Bases
from sapwood.launch import Runtime
from sapwood.methods import parts
from sapwood.methods.folder import write_method
from sapwood.methods.together import parse
from sapwood.models.choosing import Sampling
from sapwood.pool.pool import Pool, open_pool
from sapwood.pool.wish import Busy, Found, Update, Wish
from sapwood.serving import ray as on_ray
from sapwood.serving.replicas import Refusal, received, sent

HERE = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HERE, reason="ray is not installed: pip install 'sapwood[ray]'")
RUNTIME = Runtime(device="cpu", dtype="float32", threads=1)
NAMES = ("one", "two", "three")
KEY, ADMIN_KEY = "key-of-the-tests", "admin-key-of-the-tests"
BEARER = {"Authorization": f"Bearer {KEY}"}


def test_errors_arrive_as_they_were_sent() -> None:
    told = ConfigError("E-CONFIG-280", "No model 'x'.", details=["one", "two"], fix="list them")
    again = Refusal.of(told).error()
    assert type(again) is ConfigError and str(again) == str(told)
    assert again.args == told.args
    busy = Refusal.of(Busy(3, 2.5)).error()
    assert isinstance(busy, Busy) and busy.after == 2.5 and str(busy) == str(Busy(3, 2.5))
    update = received(*sent(Update(sample=1, finish="error", error=told)))
    assert update.sample == 1 and str(update.error) == str(told)
    assert received(*sent(Update(text="a"))) == Update(text="a")


@pytest.mark.skipif(HERE, reason="ray is installed")
def test_what_is_missing_is_said() -> None:
    with pytest.raises(ResourceError) as caught:
        on_ray.serve_on_ray(None, replicas=1)  # type: ignore[arg-type]
    assert caught.value.code == "E-RESOURCE-025"
    assert caught.value.fix == "pip install 'sapwood[ray]'"


@pytest.fixture(scope="module")
def folders(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three LoRAs that write differently, and a fourth beside them in a registry."""
    root = tmp_path_factory.mktemp("ray")
    net = Bases(RUNTIME).get(str(small_base)).net
    found = {}
    for seed, name in enumerate((*NAMES, "late")):
        method = parse("lora(rank=8)")
        method.attach(net, seed=1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, tensor in sorted(parts.weights(net).items()):
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
        found[name] = root / ("registry" if name == "late" else "given") / name
        found[name].parent.mkdir(exist_ok=True)
        write_method(parts.stored(net), method, found[name], base="small", transposed=False)
        parts.detach(net)
    found["finder"] = finding(Bases(RUNTIME), str(small_base), root / "given" / "finder")
    return found


def start(*words: object, stderr: Any) -> subprocess.Popen[str]:
    """Begin to serve on a cluster of its own."""
    common = ["--on", "ray", "--port", 0, "--device", "cpu", "--dtype", "float32"]
    own = {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": "", "SAPWOOD_KEY": KEY,
           "SAPWOOD_ADMIN_KEY": ADMIN_KEY}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "sapwood", "serve", *map(str, [*words, *common])],
        stdout=subprocess.PIPE, stderr=stderr, text=True, env={**os.environ, **own},
    )  # fmt: skip


class Cluster:
    """`sapwood serve --on ray` in a process of its own."""

    def __init__(self, base: Path, adaptations: list[Path], registry: Path, log: Path) -> None:
        self.log = log
        with log.open("w") as errors:
            self.process = start(
                *adaptations, "--base", base, "--workers", 2, "--registry", registry,
                "--drain", 5, "--slots", 4, stderr=errors,
            )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http"), log.read_text()[-4000:]
        self.client = httpx.Client(base_url=self.url, headers=BEARER, timeout=60)

    def copies(self) -> dict[str, dict[str, int]]:
        """Return how many requests for each model each copy has answered."""
        page = self.client.get("/metrics").text
        line = re.compile(r'sapwood_copy_requests_total\{copy="(\w+)",model="([^"]+)"\} ([\d.]+)')
        found: dict[str, dict[str, int]] = {}
        for copy, model, count in line.findall(page):
            found.setdefault(model, {})[copy] = int(float(count))
        return found

    def copy_processes(self) -> list[int]:
        """Return the processes of the copies, which Ray names by what they are."""
        lines = subprocess.run(
            ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[1:]
        found = {
            int(pid): (int(parent), name) for pid, parent, name in (x.split(None, 2) for x in lines)
        }

        def ours(pid: int) -> bool:
            return pid == self.process.pid or (pid in found and ours(found[pid][0]))

        kind = "ray::ServeReplica:sapwood:Replica"
        return [pid for pid, (_, name) in found.items() if name.startswith(kind) and ours(pid)]

    def end(self) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture(scope="module")
def cluster(
    small_base: Path, folders: dict[str, Path], small_run: Any, tmp_path_factory: Any
) -> Iterator[Cluster]:
    """A cluster with three LoRAs, one that finds entities, and a run that labels."""
    given = [*(folders[name] for name in (*NAMES, "finder")), small_run.out]
    log = tmp_path_factory.mktemp("log") / "log"
    made = Cluster(small_base, given, folders["late"].parent, log)
    yield made
    made.end()


@needs_ray
@pytest.mark.slow
def test_what_a_copy_refuses_is_told_and_all_ends(
    small_base: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(folders["one"], wrong)
    file = wrong / "adapter_model.safetensors"
    save_file({name: np.repeat(x, 2, 0) for name, x in load_file(file).items()}, file)
    process = start(wrong, "--base", small_base, "--workers", 1, stderr=subprocess.PIPE)
    out, told = process.communicate(timeout=110)
    assert (process.returncode, out) == (5, "")
    assert "E-MODEL-023" in told and "tensors do not map onto the base" in told
    assert "Traceback" not in told


@pytest.fixture(scope="module")
def alone(small_base: Path, folders: dict[str, Path], small_run: Any) -> Iterator[Pool]:
    """A pool in this process with the same adaptations."""
    given = {**folders, "out": small_run.out / "adaptation"}
    made = open_pool(str(small_base), given, runtime=RUNTIME, slots=4)
    yield made
    made.stop(1)


def usage_of(found: Found[Any]) -> dict[str, Any]:
    usage: dict[str, Any] = {"prompt_tokens": found.prompt}
    usage["total_tokens"] = found.prompt + found.written
    if found.written:
        usage["completion_tokens"] = found.written
    if found.cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": found.cached}
    return usage


def says(pool: Pool, model: str, text: str) -> str:
    updates: list[Update] = []
    pool.write(Wish(model=model, text=text, sampling=Sampling(tokens=12)), updates.append)
    end = time.monotonic() + 60
    while not (updates and updates[-1].finish):
        assert time.monotonic() < end
        time.sleep(0.005)
    assert updates[-1].error is None
    return "".join(update.text for update in updates)


@needs_ray
@pytest.mark.slow
def test_copies_answer_as_one_pool_and_each_adaptation_has_its_copy(
    cluster: Cluster, alone: Pool
) -> None:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY, max_retries=0) as client:
        assert {m.id for m in client.models.list()} == {"small", *NAMES, "finder", "out", "late"}
        for turn in range(6):
            for name in (*NAMES, "small"):
                text = f"the film of day {turn}"
                wanted = says(alone, name, text)
                whole = client.completions.create(model=name, prompt=text, max_tokens=12)
                parts_ = client.completions.create(
                    model=name, prompt=text, max_tokens=12, stream=True
                )
                assert whole.choices[0].text == wanted
                assert "".join(part.choices[0].text for part in parts_) == wanted
                assert whole.usage is not None and whole.usage.completion_tokens > 0
    assert len({says(alone, name, "the film") for name in (*NAMES, "small")}) == 4
    texts = ["great film", "dull plot"]
    labelled = alone.classify("out", texts).result(60)
    rows = labelled.values
    answer = cluster.client.post("/v1/classify", json={"model": "out", "input": texts}).json()
    assert answer["usage"] == usage_of(labelled)
    for row, said in zip(rows, answer["data"], strict=True):
        given = {x["label"]: x["probability"] for x in said["labels"]}
        assert given == pytest.approx(row, abs=1e-4)
    vectors = alone.embed("small", ["a film"]).result(60).values
    answer = cluster.client.post("/v1/embeddings", json={"model": "small", "input": "a film"})
    assert answer.json()["data"][0]["embedding"] == pytest.approx(vectors[0], abs=1e-4)
    texts = ["Anna saw Rome", "nobody", "北京 is far 😀 away"]
    found = alone.extract("finder", texts).result(60)
    answer = cluster.client.post("/v1/extract", json={"model": "finder", "input": texts}).json()
    assert answer["usage"] == usage_of(found) and found.written > 0
    assert [row["words"] for row in answer["data"]] == [one.words for one in found.values]
    for row, one in zip(answer["data"], found.values, strict=True):
        heads = [(f.label, f.head.start, f.head.end) for f in one.frames if f.head]
        assert [(f["label"], f["head"]["start"], f["head"]["end"]) for f in row["frames"]] == heads
    (said,) = [m for m in cluster.client.get("/v1/models").json()["data"] if m["id"] == "finder"]
    assert (said["queries"], said["tokens"], said["task"]) == (3, found.written, "entities")
    counted = cluster.copies()
    assert [list(counted[name].values()) for name in NAMES] == [[12], [12], [12]]
    held = (*NAMES, "finder", "out")
    assert len({copy for name in held for copy in counted[name]}) == 2  # both have some


@needs_ray
@pytest.mark.slow
def test_refusals_and_keys_are_those_of_the_application(cluster: Cluster) -> None:
    ask = {"model": "onee", "prompt": "a", "max_tokens": 2}
    assert httpx.post(f"{cluster.url}/v1/completions", json=ask).status_code == 401
    assert httpx.get(f"{cluster.url}/metrics").status_code == 401
    assert httpx.get(f"{cluster.url}/healthz").status_code == 200
    assert cluster.client.get("/readyz").json() == {"status": "ready"}
    unknown = cluster.client.post("/v1/completions", json=ask)
    assert unknown.status_code == 404
    assert "Did you mean 'one'?" in unknown.json()["error"]["message"]
    long = {"model": "one", "prompt": "a film " * 4096, "max_tokens": 2}
    refused = cluster.client.post("/v1/completions", json=long)  # found out by the copy
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "E-MODEL-030")
    labels = cluster.client.post("/v1/classify", json={"model": "one", "input": "a"})
    assert (labels.status_code, labels.json()["error"]["code"]) == (400, "E-CONFIG-281")


@needs_ray
@pytest.mark.slow
def test_who_leaves_is_answered_no_further(cluster: Cluster) -> None:
    ask = {"model": "one", "prompt": "a", "max_tokens": 700, "n": 4}
    begin = time.monotonic()
    whole = cluster.client.post("/v1/completions", json=ask).json()
    seconds = time.monotonic() - begin
    assert whole["usage"]["completion_tokens"] == 2800
    for _ in range(4):  # four slots: what went on would be waited for
        with cluster.client.stream("POST", "/v1/completions", json=ask | {"stream": True}) as said:
            next(said.iter_lines())
    begin = time.monotonic()
    ask = {"model": "one", "prompt": "b", "max_tokens": 2}
    assert cluster.client.post("/v1/completions", json=ask).status_code == 200
    assert time.monotonic() - begin < seconds


@needs_ray
@pytest.mark.slow
def test_content_that_is_loaded_anew_is_what_answers(
    cluster: Cluster, folders: dict[str, Path], alone: Pool
) -> None:
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    ask = {"model": "late", "prompt": "the film", "max_tokens": 12}

    def told(model: str) -> str:
        answer = cluster.client.post("/v1/completions", json={**ask, "model": model}).json()
        return str(answer["choices"][0]["text"])

    assert told("late") == says(alone, "late", "the film")
    for file in folders["one"].iterdir():
        (folders["late"] / file.name).write_bytes(file.read_bytes())
    loaded = cluster.client.post("/admin/load", json={"name": "late"}, headers=admin)
    assert loaded.status_code == 200, loaded.text
    assert told("late") == says(alone, "one", "the film")
    unloaded = cluster.client.post("/admin/unload", json={"name": "late"}, headers=admin)
    assert unloaded.status_code == 200, unloaded.text
    assert cluster.client.post("/v1/completions", json=ask).status_code == 404


@needs_ray
@pytest.mark.slow
def test_a_copy_that_dies_is_made_good(cluster: Cluster, alone: Pool) -> None:
    ask = {"model": "two", "prompt": "the film", "max_tokens": 12}
    os.kill(cluster.copy_processes()[0], signal.SIGKILL)
    end = time.monotonic() + 60
    while len(cluster.copy_processes()) < 2:
        answer = cluster.client.post("/v1/completions", json=ask)
        if answer.status_code == 200:
            assert answer.json()["choices"][0]["text"] == says(alone, "two", "the film")
        else:  # what was just being answered
            assert answer.json()["error"]["code"] == "E-RESOURCE-071"
        assert time.monotonic() < end
        time.sleep(0.1)
    assert cluster.client.get("/readyz").status_code == 200


@needs_ray
@pytest.mark.slow
def test_a_signal_ends_it(cluster: Cluster) -> None:
    begin = time.monotonic()
    assert cluster.end() == 0
    assert time.monotonic() - begin < 30
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{cluster.url}/healthz")
    log = cluster.log.read_text()
    assert json.dumps({"cancelled": 0, "died": False})[1:-1] in log
