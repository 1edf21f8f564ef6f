"""Whether answers are of their own context: told where they are, and not where they are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.evaluation.answerer import Answerer
from sapwood.interfaces import Answer, Example, Turn
from sapwood.search.own_context import context_use, exchanged, last_exchange


def talk(number, turns=4):
    roles = ("user", "assistant")
    said = [Turn(role=roles[n % 2], content=f"{number}.{n}") for n in range(turns)]
    return Example(text=f"talk {number}", label=said[-1].content, row=number, turns=tuple(said))


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(0, 5))
def test_every_row_keeps_its_answer_and_takes_another_s_context(count, seed):
    rows = [talk(n) for n in range(count)]
    found = exchanged(rows, seed)
    for row, other in zip(rows, found, strict=True):
        assert (other.label, other.turns[-1], other.row) == (row.label, row.turns[-1], row.row)
        assert other.text != row.text and other.turns[0] != row.turns[0]
    assert sorted(one.text for one in found) == sorted(one.text for one in rows)
    assert exchanged(rows, seed) == found


def test_rows_that_ask_the_same_take_the_first_that_does_not():
    rows = [Example(text=text, label=str(n)) for n, text in enumerate("aaab")]
    texts = [one.text for one in exchanged(rows)]
    assert texts[:3] == ["b", "b", "b"] and texts[3] == "a"


def test_only_the_last_message_is_left():
    assert [t.content for t in last_exchange(talk(3)).turns] == ["3.2", "3.3"]
    assert last_exchange(talk(3, turns=2)) == talk(3, turns=2)


class Fake(Answerer):
    """An answerer that charges answers by what stands before them."""

    def __init__(self, price) -> None:
        self.price = price

    def scored(self, rows):
        return [Answer(nats=self.price(row), bytes=10) for row in rows]


def used(price, rows):
    asked = Fake(price)
    return context_use(asked, rows, asked.scored(rows))


def test_a_base_that_listens_is_told_from_one_that_does_not():
    rng = np.random.default_rng(0)
    rows = [talk(n) for n in range(64)]
    noise = {row.label: 5 + float(rng.normal()) for row in rows}

    def listens(row):
        own = str(row.row)
        last = row.turns[-2].content.startswith(f"{own}.")
        earlier = len(row.turns) > 2 and row.turns[0].content.startswith(f"{own}.")
        return noise[row.label] - 0.7 * last - 0.3 * earlier

    found = used(listens, rows)
    assert found["rows"] == found["rows_with_earlier_turns"] == 64
    saved = found["bits_saved_by_the_context"]
    assert saved["value"] == pytest.approx(1.0 / 10 / np.log(2)) and saved["low"] > 0
    assert found["bits_saved_by_earlier_turns"]["value"] == pytest.approx(0.3 / 10 / np.log(2))
    assert found["nearer_to_its_own_context"]["value"] == 1.0
    assert found["bits_with_another_context"]["value"] > found["bits_with_its_own_context"]["value"]

    deaf = used(lambda row: noise[row.label], rows)
    assert deaf["bits_saved_by_the_context"]["value"] == 0.0
    assert deaf["nearer_to_its_own_context"]["value"] == 0.0  # none is strictly nearer
    stories = [Example(text=f"t {n}", label="x", row=n) for n in range(20)]
    assert "bits_saved_by_earlier_turns" not in used(lambda row: 3.0, stories)


def test_a_run_reports_the_use_of_the_context(sapwood, small_base, tmp_path):
    rows = [
        {"messages": [
            {"role": "user", "content": f"say {n} {n % 7}"},
            {"role": "assistant", "content": f"well {n % 5} so"},
            {"role": "user", "content": f"and {n % 3}"},
            {"role": "assistant", "content": f"then {n % 4} it is {n}"},
        ]}
        for n in range(160)
    ]  # fmt: skip
    data = tmp_path / "talks.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    out = tmp_path / "out"
    ran = sapwood("prompt", data, "--task", "dialogue", "--model", small_base, "--encoder", "none",
                  "--out", out, "--shots", 0, "--device", "cpu", "--dtype", "float32")  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads((out / "report.json").read_text())
    tried = {candidate["name"] for candidate in report["candidates"]}
    assert tried == {"zero-shot"}  # demonstrations would not be shown
    context = report["panel"]["context"]
    assert context["rows"] == report["splits"]["test"] >= 16
    assert context["rows_with_earlier_turns"] == context["rows"]
    assert set(context["bits_saved_by_the_context"]) == {"value", "low", "high"}
    page = (out / "report.html").read_text()
    assert "Use of the context" in page and "Bits a byte saved by earlier turns" in page
    assert "perplexity_a_token" in report["panel"]
    (chosen,) = report["candidates"]
    result = json.loads((out / "run" / "candidates" / "zero-shot" / "result.json").read_text())
    # what a query costs is what writing an answer takes, not what scoring the wanted one does
    assert (
        chosen["cost"]["ms_per_query"] == result["ms_per_query"] != result["scored"]["ms_per_query"]
    )
    assert chosen["cost"]["tokens_per_query"] > 0 and result["scored"]["tokens_per_query"] > 0
