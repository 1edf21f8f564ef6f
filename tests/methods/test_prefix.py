"""Prefixes: PEFT reads what is written, and a prefix is an encoded context."""

import json

import numpy as np
import pytest
import torch

from sapwood.adaptation import seed
from sapwood.errors import ModelError
from sapwood.methods.prefix import (
    StoredPrefix,
    check_fits,
    expected_shape,
    read_prefix,
    split_layers,
    stack_layers,
    write_prefix,
)
from sapwood.models.decoder import Decoder
from sapwood.models.layout import Row
from sapwood.testing import KINDS

pytestmark = [  # what peft itself warns of
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
IDS = list(range(40, 60))


def random_prefix(config, tokens=7):
    generator = torch.Generator().manual_seed(5)
    return 0.5 * torch.randn(tokens, *expected_shape(config), generator=generator)


def packed_logits(net, tensor, ids):
    decoder = Decoder(net)
    prefix = seed(StoredPrefix(tensor=tensor, origin="chance", trained=True), decoder)
    ((_, states),) = decoder.hidden([Row(ids=ids, wanted=range(len(ids)))], prefix)
    return net.get_output_embeddings()(states)


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_the_folder_and_gives_the_same_logits(tiny_net, kind, tmp_path):
    peft = pytest.importorskip("peft")
    net = tiny_net(kind)
    tensor = random_prefix(net.config)
    write_prefix(tensor, tmp_path, base="tiny")
    with torch.no_grad():
        ours = packed_logits(net, tensor, IDS)
        theirs = peft.PeftModel.from_pretrained(tiny_net(kind), tmp_path).eval()
        found = theirs(input_ids=torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(ours, found, atol=1e-4, rtol=0)


def test_what_peft_writes_is_read(tiny_net, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model = peft.get_peft_model(tiny_net("llama"), config).eval()
    torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight, std=0.5)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([IDS])).logits[0]
        ours = packed_logits(tiny_net("llama"), read_prefix(tmp_path), IDS)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.weights("smollm2-135m")
def test_peft_agrees_on_a_real_base(tmp_path):
    peft = pytest.importorskip("peft")
    from sapwood.launch import choose_runtime
    from sapwood.models.load import load_base

    base = load_base("smollm2-135m", choose_runtime("cpu", "float32"))
    coded = base.tokenizer(["Sort each review. Review: dull. Sentiment: negative", " Review: fun."])
    context, query = coded["input_ids"]
    decoder = Decoder(base.net)
    tensor = stack_layers(decoder.encode(context).layers)
    ours = packed_logits(base.net, tensor, query)
    with torch.no_grad():
        whole = base.net(input_ids=torch.tensor([[*context, *query]])).logits[0, len(context) :]
    torch.testing.assert_close(ours, whole, atol=1e-3, rtol=1e-4)
    write_prefix(tensor, tmp_path, base="smollm2-135m")
    theirs = peft.PeftModel.from_pretrained(base.net, tmp_path).eval()
    with torch.no_grad():
        found = theirs(input_ids=torch.tensor([query])).logits[0]
    torch.testing.assert_close(ours.log_softmax(-1), found.log_softmax(-1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoded_context_comes_back_from_its_file(tiny_net, kind, tmp_path):
    decoder = Decoder(tiny_net(kind))
    encoded = decoder.encode(range(20, 40))
    write_prefix(stack_layers(encoded.layers), tmp_path, base="tiny")
    again = read_prefix(tmp_path)
    layers = split_layers(again, torch.float32, torch.device("cpu"))
    for (key, value), (old_key, old_value) in zip(layers, encoded.layers, strict=True):
        assert torch.equal(key, old_key) and torch.equal(value, old_value)
    stored = StoredPrefix(tensor=again, origin="context", trained=False)
    assert stored.describe() == "20 tokens, from context"
    prompts = [[30, 31, 32], [50]]
    np.testing.assert_allclose(
        decoder.features(prompts, seed(stored, decoder)), decoder.features(prompts, encoded)
    )


def test_the_number_format_is_kept_and_the_other_one_served(tiny_net, tmp_path):
    tensor = random_prefix(tiny_net("llama").config).bfloat16()
    write_prefix(tensor, tmp_path, base="tiny")
    assert torch.equal(read_prefix(tmp_path), tensor)
    ((key, _), *_) = split_layers(tensor, torch.float32, torch.device("cpu"))
    assert key.dtype == torch.float32


def test_a_prefix_of_another_net_is_named(tiny_net):
    tensor = random_prefix(tiny_net("gemma3_text").config)
    with pytest.raises(ModelError) as caught:
        check_fits(tensor, tiny_net("llama").config)
    assert caught.value.code == "E-MODEL-027"
    assert caught.value.details == ("keys and values of layers: the prefix has 8, the base has 4",)


def test_a_base_that_cannot_be_packed_is_refused(tiny_net):
    decoder = Decoder(tiny_net("llama"))
    decoder.why_padded = "asked for by the test"
    stored = StoredPrefix(tensor=random_prefix(decoder.net.config), origin="x", trained=True)
    with pytest.raises(ModelError, match="asked for by the test"):
        seed(stored, decoder)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"peft_type": "LORA"}, "E-MODEL-022", "not PREFIX_TUNING"),
        ({"num_layers": None}, "E-MODEL-022", "num_layers is None"),
        ({"num_transformer_submodules": 2}, "E-MODEL-022", "decoders"),
        ({"num_virtual_tokens": 8}, "E-MODEL-028", "(8, 64)"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(tiny_net, tmp_path, change, code, words):
    write_prefix(random_prefix(tiny_net("llama").config), tmp_path, base="tiny")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError) as caught:
        read_prefix(tmp_path)
    assert caught.value.code == code
    assert words in str(caught.value)
