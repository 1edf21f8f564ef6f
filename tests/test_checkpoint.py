"""Checkpoints: whole or not there, the newest that can be read, never more than two."""

import pytest
import torch

from sapwood.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint


def make(value=0.0, shape=(3, 2)):
    weights = {"a": torch.full(shape, value), "b": torch.full((4,), value)}
    for tensor in weights.values():
        tensor.requires_grad_()
    return weights, torch.optim.AdamW(list(weights.values()), lr=0.1)


def trained(steps, value=1.0):
    weights, optimiser = make(value)
    for _ in range(steps):
        optimiser.zero_grad()
        sum((t**2).sum() for t in weights.values()).backward()
        optimiser.step()
    return weights, optimiser


def save(folder, step, **more):
    weights, optimiser = trained(step)
    save_checkpoint(
        folder, step=step, weights=weights, optimiser=optimiser, extra={"n": step}, **more
    )
    return weights, optimiser


def test_everything_comes_back(tmp_path):
    torch.manual_seed(7)
    best = {"best": torch.arange(3.0)}
    weights, optimiser = save(tmp_path, 3, tensors=best)
    drawn = torch.rand(4)
    again, fresh = make()
    torch.manual_seed(1)
    step, extra, tensors = load_checkpoint(tmp_path, weights=again, optimiser=fresh)
    assert (step, extra) == (3, {"n": 3})
    assert torch.equal(tensors["best"], best["best"])
    assert torch.equal(torch.rand(4), drawn)
    for name in weights:
        assert torch.equal(again[name], weights[name])
    one, two = optimiser.state_dict()["state"], fresh.state_dict()["state"]
    for number, values in one.items():
        for key, value in values.items():
            assert torch.equal(two[number][key], value)
            assert two[number][key].dtype == value.dtype


def test_nothing_saved_is_step_zero(tmp_path):
    weights, optimiser = make(5.0)
    assert load_checkpoint(tmp_path, weights=weights, optimiser=optimiser) == (0, {}, {})
    assert load_checkpoint(tmp_path / "no", weights=weights, optimiser=optimiser)[0] == 0
    assert float(weights["a"][0, 0].detach()) == 5.0


def test_the_newest_two_are_kept_by_number_not_by_name(tmp_path):
    for step in (8, 9, 10, 11):
        save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-11"]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\x00garbage"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, name, content):
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "checkpoint-2" / name
    path.unlink() if content is None else path.write_bytes(content)
    weights, optimiser = make()
    assert load_checkpoint(tmp_path, weights=weights, optimiser=optimiser)[0] == 1
    assert torch.equal(weights["a"], trained(1)[0]["a"])


def test_a_checkpoint_of_other_weights_is_not_restored_by_half(tmp_path):
    save(tmp_path, 2)
    weights, optimiser = make(5.0, shape=(6, 2))
    assert load_checkpoint(tmp_path, weights=weights, optimiser=optimiser)[0] == 0
    assert float(weights["b"][0].detach()) == 5.0


def test_what_a_kill_left_half_written_goes_away(tmp_path):
    save(tmp_path, 1)
    half = tmp_path / ".checkpoint-2.part"
    half.mkdir()
    (half / "state.safetensors").write_bytes(b"half")
    weights, optimiser = make()
    assert load_checkpoint(tmp_path, weights=weights, optimiser=optimiser)[0] == 1
    save(tmp_path, 3)
    assert not half.exists()
    half.mkdir()
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_older_one(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def broken(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sapwood.checkpoint.save_file", broken)
    with pytest.raises(Exception, match="disk is full"):
        save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]


def test_the_files_are_no_pickles(tmp_path):
    save(tmp_path, 1)
    names = {p.name for p in (tmp_path / "checkpoint-1").iterdir()}
    assert names == {"state.safetensors", "state.json"}
