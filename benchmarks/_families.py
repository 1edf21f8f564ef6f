"""n-gram, recurrent net and Transformer on one corpus: bits a byte of its held-out text."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import contention, say, versions

# Which of two sizes and dropouts the LSTM has was decided on another book, held out for that.
NETS = (("ngram-5", 0.0), ("lstm-small", 0.2), ("gpt-mini", 0.1), ("decoder-mini", 0.0))


def families(given: Any, about: dict[str, Any]) -> dict[str, Any]:
    """Train each net for the same minutes on `given.corpus` and return what it gives."""
    if not given.corpus:
        raise SystemExit("--families needs --corpus, built with the book held out")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for net, dropout in NETS:
            command = [sys.executable, "-m", "sapwood", "pretrain", given.corpus, "--model", net,
                       "--budget", f"{60 * given.families:.0f}s", "--json", "--out",
                       str(Path(folder) / net), "--length", "256", "--batch-size", "32",
                       "--dropout", str(dropout)]  # fmt: skip
            with contention(about):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            found = json.loads(done.stdout)
            held, cost = found["held_out"]["held"], found["cost"]
            rows.append({
                "row": "family", "net": net, "weights": found["parameters"],
                "bits_per_byte": held["bits_per_byte"], "tokens": cost["tokens"],
                "seconds": cost["seconds"], "examples": held["examples"],
            })  # fmt: skip
            say(f"  {net}: {held['bits_per_byte']:.3f} bits a byte after {cost['seconds']:.0f} s")
    counted = rows[0]["bits_per_byte"]
    ratios = {f"ngram_vs_{row['net']}": counted / row["bits_per_byte"] for row in rows[1:]}
    return {
        "claim": "bits a byte of held-out text, the same minutes for each family",
        "machine": about, "versions": versions(), "rows": rows, "ratios": ratios,
    }  # fmt: skip
