"""A process that imports everything once and forks a child for each line it reads.

A test that kills a command many times would else wait many times for torch to load. A line is a
JSON object: `code` to run with `arguments` in sys.argv; `signal` to send `after` so many seconds,
or once a path matching the glob `when` exists; `output`, the file for stdout and stderr. The
answer is one line: the `code` the child ended with (negative: the signal) and its `seconds`.
"""

import glob
import json
import os
import sys
import time
import traceback

# Loaded here, so that children find it loaded.
import bm25s  # noqa: F401
import matplotlib  # noqa: F401
import rensa  # noqa: F401
import rich.progress  # noqa: F401
import sklearn.feature_extraction.text
import sklearn.linear_model  # noqa: F401
import torch
import transformers.models.llama.modeling_llama  # noqa: F401

import sapwood.cli
import sapwood.report
import sapwood.search.adapt  # noqa: F401
from sapwood.tasks.languages import language

language("A sentence of ordinary length, so that the tables are read.")
torch.set_num_threads(1)


def live(order: dict) -> None:
    """Be the child: run the code and leave with its exit code."""
    file = os.open(order["output"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["sapwood", *order["arguments"]]
    code = 0
    try:
        exec(order["code"], {"__name__": "__main__"})
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def watch(pid: int, order: dict) -> int:
    """Wait for the child, sending it the signal at its moment; return how it ended."""
    started = time.monotonic()
    pending = order.get("signal")
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        due = order.get("after") is not None and time.monotonic() - started >= order["after"]
        if pending and (due or (order.get("when") and glob.glob(order["when"]))):
            os.kill(pid, pending)
            pending = None
        time.sleep(0.001)


def main() -> None:
    """Obey the orders on stdin, one line each."""
    for line in sys.stdin:
        order = json.loads(line)
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            live(order)
        code = watch(child, order)
        print(json.dumps({"code": code, "seconds": time.monotonic() - begun}), flush=True)


if __name__ == "__main__":
    main()
