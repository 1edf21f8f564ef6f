"""`sapwood ui`: where it listens, what it refuses, and that a run outlives it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("uvicorn", reason="sapwood[serve] is not installed")


@pytest.fixture
def served(tmp_path):
    """Starter of `sapwood ui` in a process of its own; returns it and its address."""
    running = []

    def start(*more, key=""):
        command = [sys.executable, "-m", "sapwood", "ui", "--folder", tmp_path / "ws", "--json"]
        environment = {**os.environ, "SAPWOOD_KEY": key, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*command, "--port", "0", *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment, text=True,
        )  # fmt: skip
        running.append(process)
        return process, json.loads(process.stdout.readline())["url"].rstrip("/")

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_another_address_needs_a_key(sapwood, tmp_path, monkeypatch):
    monkeypatch.delenv("SAPWOOD_KEY", raising=False)
    told = sapwood("ui", "--folder", tmp_path / "ws", "--host", "0.0.0.0")
    assert told.code == 2 and told.err.startswith("E-CONFIG-290  Without a key, 0.0.0.0 would let")
    monkeypatch.setenv("SAPWOOD_KEY", "short")
    told = sapwood("ui", "--folder", tmp_path / "ws")
    assert told.code == 2 and told.err.startswith("E-CONFIG-291  The key must have 12 or more")
    assert not (tmp_path / "ws").exists()


def test_a_port_that_is_taken_is_told(sapwood, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = sapwood("ui", "--folder", tmp_path / "ws", "--port", port)
    assert told.code == 2
    assert told.err.startswith(f"E-CONFIG-308  127.0.0.1:{port} cannot be listened on: ")
    assert "--port" in told.err


def test_a_folder_that_cannot_be_made_is_told(sapwood, tmp_path):
    (tmp_path / "file").touch()
    told = sapwood("ui", "--folder", tmp_path / "file" / "ws")
    assert told.code == 4 and told.err.startswith("E-RESOURCE-003")
    assert "--folder" in told.err and "--out" not in told.err


def test_the_page_and_the_api_share_an_address_and_end_cleanly(served):
    process, url = served(key="a-key-of-the-tests")
    assert httpx.get(url + "/").headers["location"] == "/login"
    told = httpx.get(url + "/v1/models")
    assert told.status_code == 404 and told.json()["error"]["code"] == "E-CONFIG-317"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (0, 130)
    assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_a_run_outlives_the_page_and_is_found_again(served, tmp_path, small_base, write_rows):
    data = write_rows(tmp_path / "reviews.csv")
    process, url = served()
    httpx.put(
        url + "/projects", params={"name": "reviews.csv"}, content=data.read_bytes(), timeout=60
    )
    form = {"budget": "30s", "model": "other", "other": str(small_base), "encoder": "none"}
    assert httpx.post(url + "/p/reviews/adapt", data=form, timeout=60).status_code == 303
    events = tmp_path / "ws" / "reviews" / "runs" / "1" / "events.jsonl"
    until = time.monotonic() + 90
    while not events.exists() or "tf-idf" not in events.read_text():
        assert time.monotonic() < until
        time.sleep(0.1)
    process.kill()
    process.wait()
    _, again = served()
    seen = []
    while "See the results" not in seen[-1:] and time.monotonic() < until:
        page = httpx.get(again + "/p/reviews/adapt", timeout=60).text
        seen.append("See the results" if "See the results" in page else "")
        time.sleep(0.3)
    assert seen[-1] and "Keep the baseline" in httpx.get(again + "/p/reviews/results").text
