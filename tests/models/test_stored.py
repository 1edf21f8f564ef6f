"""Stored contexts: the same numbers back, mapped, never under a wrong key, bounded in bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sapwood.errors import ModelError, ResourceError
from sapwood.models.blocks import Blocks
from sapwood.models.decoder import Decoder
from sapwood.models.stored import ContextStore, open_prefix, save_prefix
from sapwood.testing import tiny_net

CONTEXT = tuple(range(20, 80))
PROMPTS = [[100, 101, 102], [110] * 11]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_comes_back_as_it_was(tmp_path, dtype):
    decoder = Decoder(tiny_net("gemma3_text").to(dtype))
    prefix = decoder.encode(CONTEXT)
    save_prefix(prefix, tmp_path / "one.safetensors", "k")
    found = open_prefix(tmp_path / "one.safetensors", "k")
    assert found.ids == prefix.ids and found.exact and found.start is None
    for pair, other in zip(found.layers, prefix.layers, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(pair, other, strict=True))
    left, right = decoder.features(PROMPTS, found), decoder.features(PROMPTS, prefix)
    np.testing.assert_array_equal(left, right)


def test_a_cut_prefix_and_blocks_can_be_stored(tmp_path):
    decoder = Decoder(tiny_net("llama"))
    blocks = Blocks(decoder, CONTEXT[:5]).prefix([CONTEXT[5:12], CONTEXT[12:30]])
    for number, prefix in enumerate((decoder.encode(CONTEXT).cut(33), blocks)):
        path = tmp_path / f"{number}.safetensors"
        save_prefix(prefix, path, "k")
        found = open_prefix(path, "k")
        assert (found.exact, found.start, found.ids) == (prefix.exact, prefix.start, prefix.ids)
        np.testing.assert_array_equal(
            decoder.features(PROMPTS, found), decoder.features(PROMPTS, prefix)
        )


def test_a_wrong_key_a_damaged_file_and_none_at_all_are_told_apart(tmp_path):
    path = tmp_path / "one.safetensors"
    save_prefix(Decoder(tiny_net("llama")).encode(CONTEXT), path, "made-under")
    with pytest.raises(ModelError, match="encoded by other weights, in another number") as wrong:
        open_prefix(path, "asked-for")
    assert wrong.value.code == "E-MODEL-062" and "made-under" in wrong.value.details[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged or not a stored context") as damaged:
        open_prefix(path, "made-under")
    assert damaged.value.code == "E-MODEL-061"
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match="its schema is None"):
        open_prefix(path, "made-under")
    with pytest.raises(ModelError, match="There is no stored context"):
        open_prefix(tmp_path / "none", "k")


def test_keys_follow_weights_method_format_and_tokens(tiny_net):
    weights = ["base lora-1"]
    one = Decoder(tiny_net("llama"), weights_key=lambda: weights[0])
    keys = {one.stored_key(CONTEXT), one.stored_key(CONTEXT[1:])}
    weights[0] = "base lora-2"
    keys.add(one.stored_key(CONTEXT))
    other = Decoder(tiny_net("llama").to(torch.bfloat16), weights_key=lambda: "base lora-1")
    keys.add(other.stored_key(CONTEXT))
    assert len(keys) == 4


def test_a_second_decoder_encodes_nothing(tmp_path):
    store = ContextStore(tmp_path / "contexts", 1 << 20)
    first = Decoder(tiny_net("gemma3_text"), weights_key=lambda: "w", store=store)
    expected = first.features(PROMPTS, first.encode(CONTEXT, stored=True))
    second = Decoder(tiny_net("gemma3_text"), weights_key=lambda: "w", store=store)
    prefix = second.encode(CONTEXT, stored=True)
    assert (second.tokens_run, second.tokens_reused) == (0, len(CONTEXT))
    np.testing.assert_array_equal(second.features(PROMPTS, prefix), expected)
    third = Decoder(tiny_net("gemma3_text"), weights_key=lambda: "other", store=store)
    third.encode(CONTEXT, stored=True)
    assert third.tokens_run == len(CONTEXT)
    fourth = Decoder(tiny_net("gemma3_text"), weights_key=lambda: "fourth", store=store)
    fourth.encode(CONTEXT)
    assert len(list(store.folder.iterdir())) == 2


def test_the_least_recently_used_goes_first(tmp_path):
    prefix = Decoder(tiny_net("llama")).encode(CONTEXT)
    store = ContextStore(tmp_path, 10**9)
    for number, key in enumerate("abc"):
        assert store.put(key, prefix)
        os.utime(store.path(key), (number + 1, number + 1))
    assert store.get("a") is not None  # used now, so "b" is the oldest
    size = store.path("a").stat().st_size
    store.limit_bytes = 3 * size
    assert store.put("d", prefix)
    assert sorted(p.stem for p in tmp_path.glob("*.safetensors")) == ["a", "c", "d"]
    assert store.bytes() == 3 * size
    store.limit_bytes = prefix.bytes - 1
    assert not store.put("e", prefix)


def test_a_damaged_file_of_the_store_is_deleted(tmp_path):
    store = ContextStore(tmp_path, 10**9)
    store.put("a", Decoder(tiny_net("llama")).encode(CONTEXT))
    store.path("a").write_bytes(b"not a context")
    assert store.get("a") is None and not store.path("a").exists()


def test_what_a_killed_process_left_is_cleared(tmp_path):
    store = ContextStore(tmp_path, 10**9)
    old, new = tmp_path / ".x.safetensors.1.part", tmp_path / ".y.safetensors.2.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (1, 1))
    store.put("a", Decoder(tiny_net("llama")).encode(CONTEXT))
    assert not old.exists() and new.exists()


def test_a_disk_that_refuses_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match="in the way"):
        save_prefix(Decoder(tiny_net("llama")).encode(CONTEXT), tmp_path / "file" / "one", "k")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of pages")
def test_opening_maps_the_file_and_reads_nothing(tmp_path):
    path = tmp_path / "big.safetensors"
    from sapwood.models.prefixes import Prefix

    big = torch.ones(1, 4, 65536, 32)  # 32 MiB each
    save_prefix(Prefix(ids=(1,), layers=((big, big + 1),)), path, "k")
    code = (
        "import sys, pathlib\n"
        "from sapwood.models.stored import open_prefix\n"
        "found = open_prefix(pathlib.Path(sys.argv[1]), 'k')\n"
        "maps = pathlib.Path('/proc/self/smaps').read_text().split('\\n')\n"
        "at = next(n for n, line in enumerate(maps) if 'big.safetensors' in line)\n"
        "rss = next(line for line in maps[at:] if line.startswith('Rss:'))\n"
        "print(int(rss.split()[1]), float(found.layers[0][1][0, 3, -1, -1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    mapped_kb, last = done.stdout.split()
    assert int(mapped_kb) < 1024 and float(last) == 2.0
