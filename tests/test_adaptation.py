"""The artifact: what is saved is what is loaded, whole or refused."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sapwood.adaptation import Adaptation, BaseRef, Golden, copy, load, save, size_on_disk
from sapwood.context.prompter import Context
from sapwood.context.template import default_template
from sapwood.errors import ModelError, ResourceError
from sapwood.interfaces import Example
from sapwood.methods import parts
from sapwood.methods.folder import load_trained
from sapwood.methods.lora import Lora
from sapwood.methods.prefix import StoredPrefix, read_prefix
from sapwood.readouts import bias
from sapwood.readouts.majority import Majority
from sapwood.readouts.tfidf import TfIdf
from sapwood.readouts.verbalizer import Verbalizer

LABELS = ("bad", "good")
TEXTS = ["a fine film", "a dull film", "fine music", "dull music"] * 5
GOLD = ["good", "bad"] * 10


@pytest.fixture
def tfidf():
    readout = TfIdf.fit(TEXTS, GOLD, labels=LABELS, seed=0)
    return Adaptation(labels=LABELS, readout_name="tf-idf", readout=readout)


@pytest.fixture
def tuned(tiny_net):
    net = tiny_net("llama")
    method = Lora(rank=4, alpha=8.0, targets=("q_proj", "down_proj"))
    method.attach(net, seed=3)
    template = default_template(LABELS, TEXTS)
    shown = tuple(
        Example(text=t, label=g, row=n) for n, (t, g) in enumerate(zip(TEXTS, GOLD, strict=True))
    )[:4]
    readout = Verbalizer(labels=LABELS, bias=bias.none(2), normalise="trie")
    made = Adaptation(
        labels=LABELS,
        readout_name="verbalizer",
        readout=readout,
        base=BaseRef(name="tiny", sha256="1" * 64, kind="decoder", licence="Apache-2.0"),
        context=Context(template=template, demonstrations=shown, selection="stratified", shots=4),
        method=method,
        weights={n: t.detach().clone() for n, t in parts.weights(net).items()},
        scope="suffix",
        golden=Golden(texts=("a",), probabilities=((0.25, 0.75),)),
        evidence={"seed": 3},
    )
    parts.detach(net)
    return made


def test_a_readout_of_texts_comes_back(tfidf, tmp_path):
    save(tfidf, tmp_path / "a")
    again = load(tmp_path / "a")
    assert (again.labels, again.base, again.context, again.method) == (LABELS, None, None, None)
    assert again.reads == "texts"
    np.testing.assert_array_equal(
        again.readout.probabilities(TEXTS), tfidf.readout.probabilities(TEXTS)
    )


def test_every_part_comes_back(tuned, tmp_path):
    save(tuned, tmp_path / "a")
    again = load(tmp_path / "a")
    assert again.base == tuned.base
    assert again.context == tuned.context
    assert again.scope == "suffix"
    assert again.golden == tuned.golden
    assert again.evidence == {"seed": 3}
    assert again.reads == "scores"
    assert again.parts() == tuned.parts()
    assert again.parts()["method"] == "lora r=4, scope suffix"
    assert (again.method.rank, again.method.alpha) == (4, 8.0)
    assert set(again.method.targets) == {"q_proj", "down_proj"}
    for name, tensor in tuned.weights.items():
        assert torch.equal(again.weights[name], tensor)


def test_the_weights_half_is_a_peft_folder(tuned, tiny_net, tmp_path):
    save(tuned, tmp_path / "a")
    net = tiny_net("llama")
    assert load_trained(net, tmp_path / "a").rank == 4
    for name, tensor in parts.weights(net).items():
        assert torch.equal(tensor, tuned.weights[name])


def test_the_folder_names_every_part_with_its_hash_and_holds_no_pickle(tuned, tmp_path):
    save(tuned, tmp_path / "a")
    main = json.loads((tmp_path / "a" / "adaptation.json").read_text())
    present = {p.name for p in (tmp_path / "a").iterdir()} - {"adaptation.json"}
    assert set(main["files"]) == present
    for name, digest in main["files"].items():
        content = (tmp_path / "a" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    assert {p.suffix for p in (tmp_path / "a").iterdir()} == {".json", ".safetensors"}
    assert size_on_disk(tmp_path / "a") == sum(p.stat().st_size for p in (tmp_path / "a").iterdir())


def test_a_failed_save_leaves_the_older_one_whole(tfidf, tmp_path, monkeypatch):
    save(tfidf, tmp_path / "a")
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    majority = Majority.fit(TEXTS, GOLD, labels=LABELS, seed=0)
    other = replace(tfidf, readout_name="majority", readout=majority)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="disk is full"):
        save(other, tmp_path / "a")
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    monkeypatch.undo()
    save(other, tmp_path / "a")
    assert load(tmp_path / "a").readout_name == "majority"
    assert not (tmp_path / "a" / "readout.safetensors").exists() or size_on_disk(tmp_path / "a")


def test_an_older_one_survives_a_kill_between_the_renames(tfidf, tmp_path):
    save(tfidf, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / ".a.old")  # what a kill at the worst moment leaves

    class Stop(Exception):
        pass

    from sapwood.files import new_folder

    with pytest.raises(Stop), new_folder(tmp_path / "a"):
        raise Stop
    assert load(tmp_path / "a").labels == LABELS


def test_copy_keeps_the_parts_and_changes_what_is_said(tfidf, tmp_path):
    save(tfidf, tmp_path / "a")
    copy(tmp_path / "a", tmp_path / "b", {"evidence": {"dev": 1}})
    assert load(tmp_path / "b").evidence == {"dev": 1}
    assert load(tmp_path / "a").evidence == {}


def test_every_changed_file_is_named_at_once(tuned, tmp_path):
    save(tuned, tmp_path / "a")
    (tmp_path / "a" / "context.json").unlink()
    (tmp_path / "a" / "readout.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "a")
    assert caught.value.code == "E-MODEL-043"
    assert caught.value.details == (
        "context.json is missing",
        "readout.json is not the file that was saved (its SHA-256 differs)",
    )


def test_the_folder_of_a_run_points_to_the_adaptation_in_it(tfidf, tmp_path):
    save(tfidf, tmp_path / "run" / "adaptation")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "run")
    assert caught.value.fix == f"use {tmp_path / 'run' / 'adaptation'}"


def test_parts_in_words(tfidf, tuned):
    assert tfidf.parts() == {"context": None, "prefix": None, "method": None, "readout": "tf-idf"}
    assert tuned.parts()["context"] == "4 demonstrations, stratified"
    fitted = bias.labels(np.log([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]), np.array([0, 1, 1]))
    readout = Verbalizer(labels=LABELS, bias=fitted)
    assert replace(tuned, readout=readout).parts()["readout"] == "verbalizer + bias (labels)"


@pytest.fixture
def prefix():
    tensor = torch.randn(5, 4, 2, 8, generator=torch.Generator().manual_seed(1))
    return StoredPrefix(tensor=tensor, origin="4 demonstrations", trained=True)


def test_a_prefix_comes_back_alone_and_beside_lora(tuned, prefix, tmp_path):
    alone = replace(tuned, prefix=prefix, method=None, weights={})
    for name, made, where in (("a", alone, "."), ("b", replace(tuned, prefix=prefix), "prefix")):
        save(made, tmp_path / name)
        assert torch.equal(read_prefix(tmp_path / name / where), prefix.tensor)
        again = load(tmp_path / name)
        assert torch.equal(again.prefix.tensor, prefix.tensor)
        assert again.parts() == made.parts()
        assert again.parts()["prefix"] == "5 tokens, from 4 demonstrations, trained"
        assert again.parts()["context"] is None
        assert (again.method is None) == (name == "a")
    assert again.parts()["method"] == "lora r=4"
    copy(tmp_path / "b", tmp_path / "c", {"evidence": {"dev": 1}})
    assert torch.equal(load(tmp_path / "c").prefix.tensor, prefix.tensor)


def test_a_changed_prefix_is_named(tuned, prefix, tmp_path):
    save(replace(tuned, prefix=prefix), tmp_path / "a")
    (tmp_path / "a" / "prefix" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "a")
    assert caught.value.details == (
        "prefix/adapter_config.json is not the file that was saved (its SHA-256 differs)",
    )


def test_a_folder_without_the_field_has_no_prefix(tuned, tmp_path):
    """Folders of version 0.1.0 do not name it."""
    save(tuned, tmp_path / "a")
    path = tmp_path / "a" / "adaptation.json"
    content = json.loads(path.read_text())
    del content["prefix"]
    path.write_text(json.dumps(content))
    assert load(tmp_path / "a").prefix is None
