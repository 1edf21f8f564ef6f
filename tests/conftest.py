"""What every test shares: quiet threads, a cache of their own, tiny nets, the real bases."""

from __future__ import annotations

import os

# Before torch is imported: the cores are shared with whatever else runs (see `sapwood doctor`).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Callable, Iterator
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
