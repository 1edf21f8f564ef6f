"""`sapwood personalise`: gains a user, adaptations that load, and what is refused."""

from __future__ import annotations

import json
import random

import pytest

from sapwood.adaptation import load


@pytest.fixture
def data(tmp_path):
    """Two users who judge the same words the opposite way, and one with three rows."""
    rng = random.Random(0)
    rows = []
    for n in range(63):
        user = "cy" if n >= 60 else ("ann", "b/ob")[n % 2]
        good = rng.random() < 0.5
        label = "positive" if good != (user == "b/ob") else "negative"
        rows.append({"text": f"{'great' if good else 'awful'} film {n}", "label": label,
                     "who": user})  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_each_user_gets_an_adaptation_that_loads(sapwood, small_base, data, tmp_path):
    out = tmp_path / "out"
    flags = ("--model", small_base, "--out", out, "--epochs", 1, "--dtype", "float32")
    ran = sapwood("personalise", data, "--user", "who", *flags, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert {one["user"]: one["own"] for one in found["users"]} == {
        "ann": True, "b/ob": True, "cy": False
    }  # fmt: skip
    assert found["overall"]["low"] <= found["overall"]["difference"] <= found["overall"]["high"]
    assert set(found["adaptations"]) == {"ann", "b/ob"}
    shared = load(out / "adaptation")
    own = load(out / "users" / "2" / "adaptation")
    assert shared.method.rank == 8 and own.method.rank == 9
    assert own.evidence["personalised"]["user"] == "b/ob"
    assert json.loads((out / "users.json").read_text())["b/ob"].endswith("users/2/adaptation")
    assert not list((out / "run").glob("checkpoint-*"))
    predicted = sapwood("predict", out / "users" / "1", data, "--json")
    assert predicted.code == 0, predicted.err


def test_words_for_a_person_and_for_a_wrong_column(sapwood, small_base, data, tmp_path):
    flags = ("--model", small_base, "--out", tmp_path / "out", "--epochs", 0.2)
    ran = sapwood("personalise", data, "--user", "who", *flags)
    assert ran.code == 0, ran.err
    assert "1 user has too few rows" in ran.out
    assert ran.out.splitlines()[0].split()[:2] == ["user", "rows"]
    wrong = sapwood("personalise", data, "--user", "whom", *flags)
    assert wrong.code == 3
    assert "whom" in wrong.err and "who" in wrong.err
    few = sapwood("personalise", data, "--user", "who", *flags, "--fewest", 99)
    assert few.code == 3 and "No user has 99 rows" in few.err
