"""Run by AdapterHub's own interpreter: `hub_side.py make|load FOLDER`, both on CPU."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file


def fill(net: torch.nn.Module, name: str) -> None:
    """Fill every tensor of the adapter `name` from its own name: no two are alike."""
    for path, tensor in net.named_parameters():
        if f".{name}." in path:
            generator = torch.Generator().manual_seed(zlib.crc32(path.encode()))
            tensor.data = 0.3 * torch.randn(tensor.shape, generator=generator)


def open_net(folder: Path) -> torch.nn.Module:
    import adapters  # only this side has it: pytest imports this file too
    import transformers

    transformers.logging.set_verbosity_error()
    config = json.loads((folder / "config.json").read_text())
    auto = transformers.AutoModel if config["model_type"] == "bert" else (
        transformers.AutoModelForCausalLM
    )  # fmt: skip
    net = auto.from_pretrained(folder, attn_implementation="eager").float().eval()
    adapters.init(net)
    return net


def answer(net: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()(input_ids=ids)[0].contiguous()


def make(folder: Path) -> None:
    """Make one adapter a configuration in cases.json, filled by name, with what it answers."""
    ids = torch.tensor([json.loads((folder / "ids.json").read_text())])
    import adapters

    for case, given in json.loads((folder / "cases.json").read_text()).items():
        net = open_net(folder / given["net"])
        config = adapters.AdapterConfig.load(given["config"], **given.get("changes", {}))
        net.add_adapter("own", config=config)
        net.set_active_adapters("own")
        if given["config"].startswith("prefix"):
            fill(net, "own")
        fill(net, "own")
        out = folder / case
        out.mkdir()
        if given["config"].startswith("prefix"):  # 1.3.0 cannot write these as safetensors itself
            net.save_adapter(str(out), "own", use_safetensors=False)
            held = torch.load(out / "pytorch_adapter.bin", weights_only=True)
            save_file({k: v.clone() for k, v in held.items()}, out / "adapter.safetensors")
        else:
            net.save_adapter(str(out), "own", use_safetensors=True)
        save_file({"answer": answer(net, ids)}, out / "answer.safetensors")


def load(folder: Path) -> None:
    """Load each folder that the other side wrote, and write what it answers."""
    ids = torch.tensor([json.loads((folder / "ids.json").read_text())])
    for case, net_name in json.loads((folder / "written.json").read_text()).items():
        net = open_net(folder / net_name)
        name = net.load_adapter(str(folder / case), use_safetensors=True)
        net.set_active_adapters(name)
        save_file({"answer": answer(net, ids)}, folder / f"{case}.answer.safetensors")


if __name__ == "__main__":
    {"make": make, "load": load}[sys.argv[1]](Path(sys.argv[2]))
