"""What every test shares: quiet threads, a cache of their own, tiny nets, the real bases."""

from __future__ import annotations

import os

# Before torch is imported: the cores are shared with whatever else runs (see `sapwood doctor`).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["LC_ALL"] = "C.UTF-8"  # commands speak English, whoever runs the tests

import errno
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REQUIRED = os.environ.get("SAPWOOD_REQUIRE_WEIGHTS") == "1"
_reasons: dict[str, str] = {}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Pull the bases that a test marked `weights` names (all, if it names none), or skip it."""
    marker = item.get_closest_marker("weights")
    if marker is None:
        return
    from sapwood.models.store import BASES

    for name in marker.args or tuple(BASES):
        reason = _pull(name)
        if reason and REQUIRED:
            pytest.fail(f"base {name} is needed: {reason}", pytrace=False)
        if reason:
            pytest.skip(f"base {name} is not here and cannot be fetched: {reason}")


def _pull(name: str) -> str:
    """Return why a base cannot be had, or an empty string; asked once a session for each."""
    from sapwood.errors import SapwoodError
    from sapwood.models.store import pull

    if name not in _reasons:
        try:
            pull(name)
            _reasons[name] = ""
        except SapwoodError as error:
            _reasons[name] = error.what
    return _reasons[name]


@pytest.fixture(scope="session")
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole session, so that nothing is measured twice."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _own_cache(
    request: pytest.FixtureRequest, session_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep tests out of the user's cache, but for those that need the real bases in it."""
    if request.node.get_closest_marker("weights") is None:
        monkeypatch.setenv("SAPWOOD_HOME", str(session_home))


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level tokenizer of 300 tokens: 4 special ones, 256 bytes, 40 merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    pairs = [
        (left, right)
        for left, right in zip("Ġtheinreanonerates", "theinreanonerateso", strict=True)
        if left != right
    ]
    pairs += [(a, b) for a in "Ġslmw" for b in "abcdefg"]
    merges = list(dict.fromkeys(pairs))[:40]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    assert len(vocabulary) == 300
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        model_max_length=512,
    )


@pytest.fixture(scope="session")
def tiny_wordpieces() -> Any:
    """A tokenizer of the BERT kind: words of one and two letters, digits, Han, else [UNK]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789", *"אבגדהוזחטיכלמנסעפצקרשת"]
    alone = [*".,;:!?@#'()-", *"北京上海李先生在的公司日月年"]
    begun = [*letters, *alone, "an", "er", "in", "on", "re", "th"]
    vocabulary = [*special, *begun, *(f"##{piece}" for piece in [*letters, "ed", "ly", "ing"])]
    assert len(vocabulary) <= 300
    places = {token: number for number, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordPiece(places, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, places[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )


@pytest.fixture(scope="session")
def tiny_net() -> Callable[..., Any]:
    """Builder of tiny random nets: `tiny_net("llama", seed=1)`; see sapwood.testing."""
    from sapwood.testing import tiny_net as build

    return build


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any
) -> Iterator[Callable[[str], Path]]:
    """Builder of checkpoint folders of tiny random nets: `tiny_checkpoint("llama")`."""
    from sapwood.testing import tiny_net as build

    made: dict[str, Path] = {}

    def checkpoint(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            build(kind).save_pretrained(made[kind])
            tiny_tokenizer.save_pretrained(made[kind])
        return made[kind]

    yield checkpoint


class Disk:
    """A small disk of its own, which can be filled and freed again."""

    def __init__(self, place: Path) -> None:
        self.place, self._filling = place, place / "filling"

    def fill(self) -> None:
        """Use all of it up."""
        with self._filling.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC

    def free(self) -> None:
        """Give back what was used up."""
        self._filling.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 2 MiB; skipped where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no disk may be mounted here: the real drill of a full one needs root on Linux")
    yield Disk(place)
    subprocess.run(["umount", "-l", str(place)], check=True)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a command line left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def sapwood(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runner of the real command line in this process: `sapwood("adapt", path, ...)`."""
    from sapwood.cli import main

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Ran(code=code, out=out, err=err)

    return run


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A tiny random Llama with room for 4,096 tokens, so that 16 demonstrations fit."""
    from sapwood.testing import tiny_net as build

    folder = tmp_path_factory.mktemp("small") / "small"
    build("llama").save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    for name, key in (
        ("config.json", "max_position_embeddings"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, key: 4096}))
    return folder


def reviews(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return film reviews of five short words, one of which decides between two labels."""
    rng = random.Random(seed)
    tells = {
        "positive": ["great", "lovely", "superb", "happy", "fine"],
        "negative": ["awful", "dreary", "weak", "sour", "dull"],
    }
    neutral = [
        "film",
        "cast",
        "plot",
        "end",
        "song",
        "town",
        "lamp",
        "set",
        "cut",
        "road",
        "sea",
        "art",
        "play",
        "tune",
        "role",
        "act",
    ]
    rows = []
    for number in range(count):
        label = ("negative", "positive")[number % 2]
        words = [rng.choice(tells[label]), *(rng.choice(neutral) for _ in range(4))]
        rng.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., Path]:
    """Writer of small CSV files: `write_rows(path)` or `write_rows(path, rows)`."""

    def write(path: Path, rows: list[tuple[str, str]] | None = None, *, count: int = 120) -> Path:
        lines = [f"{text},{label}\n" for text, label in rows or reviews(count)]
        path.write_text("text,label\n" + "".join(lines), encoding="utf-8")
        return path

    return write


@dataclass(frozen=True, kw_only=True)
class SmallRun:
    """A finished run of `adapt`: its data, its folder and the command's arguments."""

    data: Path
    out: Path
    arguments: tuple[str, ...]


@pytest.fixture(scope="session")
def small_run(
    tmp_path_factory: pytest.TempPathFactory, small_base: Path, write_rows: Callable[..., Path]
) -> SmallRun:
    """One `adapt` on the tiny base, made once; tests only read it, or copy it."""
    from sapwood.cli import main

    folder = tmp_path_factory.mktemp("run")
    data = write_rows(folder / "reviews.csv")
    arguments = (
        "adapt", str(data), "--model", str(small_base), "--encoder", "none", "--budget", "10m",
        "--epochs", "1", "--device", "cpu", "--dtype", "float32", "--out", str(folder / "out"),
    )  # fmt: skip
    main(list(arguments))
    return SmallRun(data=data, out=folder / "out", arguments=arguments)


@dataclass(frozen=True, kw_only=True)
class Life:
    """How a forked process ended: its code (negative: a signal), seconds, and what it wrote."""

    code: int
    seconds: float
    text: str


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Life]]:
    """Runner of Python code in a process that may be killed; see tests/lives.py."""
    output = tmp_path_factory.mktemp("lives") / "output.txt"
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("lives.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert server.stdin is not None and server.stdout is not None

    def run(code: str, *arguments: object, **order: Any) -> Life:
        order |= {"code": code, "arguments": [str(a) for a in arguments], "output": str(output)}
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        ended = json.loads(server.stdout.readline())
        return Life(**ended, text=output.read_text(encoding="utf-8"))

    yield run
    server.stdin.close()
    server.wait()
    server.stdout.close()
