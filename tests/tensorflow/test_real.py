"""Real bases on real text: logits, gradients, twenty steps, and files that PEFT reads."""

import json

import numpy as np
import pytest
import torch

from sapwood.config import home
from sapwood.errors import SapwoodError
from sapwood.launch import Runtime
from sapwood.methods import parts
from sapwood.methods.folder import load_trained, write_method
from sapwood.methods.together import parse
from sapwood.models.decoder import Decoder
from sapwood.models.encoder import Encoder
from sapwood.models.kinds import new_net
from sapwood.models.load import load_base, resolve_base
from sapwood.models.trie import build_trie
from sapwood.objectives import Vocabulary
from sapwood.readouts.head import Head
from sapwood.tasks.pull import pull
from sapwood.tensorflow import heads, supervision
from sapwood.tensorflow.arrays import load
from sapwood.tensorflow.attached import weights_of
from sapwood.tensorflow.bodies import Rows, states
from sapwood.training import Recipe, Supervision, fit, make_optimiser, target
from sapwood.training.heads import HeadSupervision, TrainedHead, head_weights

RUNTIME = Runtime(device="cpu", dtype="float32", threads=2)
BOTH = ("minilm-l6", "smollm2-135m")
METHODS = {"prefix": "prefix(tokens=8)", "lora": "lora(rank=8)"}
SLOW = pytest.param("smollm2-135m", marks=pytest.mark.slow)
pytestmark = [
    pytest.mark.weights(*BOTH),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # PEFT's
]


@pytest.fixture(scope="module")
def reviews():
    """Return (texts, labels 0 and 1) of 320 real film reviews."""
    try:
        folder = pull("movie-reviews", home())
    except SapwoodError as error:
        pytest.skip(f"the reviews are not here and cannot be fetched: {error.what}")
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    some = [*rows[:160], *rows[-160:]]
    return [r["text"] for r in some], [int(r["label"] == "positive") for r in some]


def base(name):
    return load_base(name, RUNTIME)


def padded(tokenizer, texts):
    """Return (torch's inputs, ours) of texts, padded at their ends."""
    rows = [tokenizer(text)["input_ids"][:64] for text in texts]
    given = supervision.padded(rows)
    theirs = {"input_ids": given["ids"], "attention_mask": given["mask"]}
    return {name: torch.from_numpy(array).long() for name, array in theirs.items()}, given


def differs(found, wanted, mask):
    """Return the largest difference at real tokens, as a share of the largest number."""
    real, wanted = mask.astype(bool), wanted.numpy()
    return float(np.abs(found - wanted)[real].max() / max(1.0, np.abs(wanted[real]).max()))


def test_an_encoder_on_real_text(reviews):
    known = base("minilm-l6")
    theirs, given = padded(known.tokenizer, reviews[0][:16])
    with torch.no_grad():
        wanted = known.net(**theirs).last_hidden_state
    weights = load(resolve_base("minilm-l6").folder)
    found = states(weights, Rows(ids=given["ids"], mask=given["mask"])).numpy()
    assert differs(found, wanted, given["mask"]) < 1e-5


@pytest.mark.parametrize("name", ["smollm2-135m", "gpt-small"])
def test_logits_of_a_decoder_on_real_text(name, reviews):
    known = base("smollm2-135m")
    net = known.net
    if name == "gpt-small":
        vocabulary = Vocabulary(size=len(known.tokenizer), pad=0)
        net = new_net(name, vocabulary, 64, ("clm",)).eval()
    theirs, given = padded(known.tokenizer, reviews[0][:8])
    with torch.no_grad():
        wanted = net(**theirs).logits
    weights, _ = weights_of(net)
    hidden = states(weights, Rows(ids=given["ids"], mask=given["mask"]))
    flat = heads.word_scores(weights, hidden.numpy().reshape(-1, hidden.shape[-1])).numpy()
    real, flat = given["mask"].astype(bool), flat.reshape(wanted.shape)
    # logits of 30 have steps of 2e-6 in float32
    np.testing.assert_allclose(flat[real], wanted.numpy()[real], atol=1e-4, rtol=1e-5)


def on_decoder(known, method, reviews, make):
    """Return (supervision, what trains) of SmolLM2 that answers good or bad."""
    net = parse(method).attach(known.net)
    decoder = Decoder(net, weights_key=lambda: method)
    coded = known.tokenizer([" bad", " good"], add_special_tokens=False)["input_ids"]
    trie = build_trie(coded)
    prompts = known.tokenizer([f"Review: {text}\nIt was" for text in reviews[0]])["input_ids"]
    targets = [target(p[-48:], g, trie) for p, g in zip(prompts, reviews[1], strict=True)]
    return make(decoder, targets, trie), parts.weights(net)


def on_encoder(known, method, reviews, make):
    """Return (supervision, what trains) of MiniLM under a head."""
    encoder = Encoder(parse(method).attach(known.net))
    head = TrainedHead(Head.random(("bad", "good"), 384))
    rows = [known.tokenizer(text)["input_ids"][:64] for text in reviews[0]]
    return make(encoder, rows, reviews[1], head), head_weights(encoder.net, head)


def second_head(*given):
    return supervision.under_head(HeadSupervision(*given))


def second_words(*given):
    return supervision.under_words(Supervision(*given))


ENGINES = {
    "minilm-l6": (on_encoder, HeadSupervision, second_head),
    "smollm2-135m": (on_decoder, Supervision, second_words),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["minilm-l6", SLOW])
def test_gradients_and_twenty_steps(name, method, reviews, tmp_path):
    begin, *engines = ENGINES[name]
    slopes, courses, trained = [], [], []
    for make in engines:
        known = base(name)
        made, weights = begin(known, METHODS[method], reviews, make)
        for loss, _ in made.losses(range(8), 2048):
            loss.backward()
        slopes.append({key: tensor.grad.clone() for key, tensor in weights.items()})
        recipe = Recipe(learning_rate=1e-3, batch_size=8, epochs=1.0)
        optimiser = make_optimiser(list(weights.values()), recipe)
        courses.append([step.loss for step in fit(made, optimiser, recipe, total=20)])
        trained.append(known.net)
    for key, wanted in slopes[0].items():
        far = float((slopes[1][key] - wanted).norm() / wanted.norm().clamp(min=1e-6))
        assert far < 1e-3, key
    assert courses[1] == pytest.approx(courses[0], abs=1e-3)
    assert np.mean(courses[0][-5:]) < np.mean(courses[0][:5])
    written = tmp_path / "made"
    kept = parts.stored(trained[1])
    write_method(
        kept, parse(METHODS[method]), written, base=name, transposed=False,
        encoder=name == "minilm-l6",
    )  # fmt: skip
    _as_peft_reads_it(name, written, trained[1], reviews)


def _as_peft_reads_it(name, folder, net, reviews):
    """PEFT, torch and TensorFlow say the same of what TensorFlow trained."""
    peft = pytest.importorskip("peft")
    known = base(name)
    theirs, given = padded(known.tokenizer, reviews[0][:6])
    weights, _ = weights_of(net)
    ours = states(weights, Rows(ids=given["ids"], mask=given["mask"])).numpy()
    with torch.no_grad():
        own = _hidden(net, theirs)
        assert differs(ours, own, given["mask"]) < 1e-3
        there = peft.PeftModel.from_pretrained(known.net, folder).eval()
        assert differs(ours, _hidden(there, theirs), given["mask"]) < 1e-3


def _hidden(net, given):
    out = net(**given, output_hidden_states=True)
    found = getattr(out, "last_hidden_state", None)
    return out.hidden_states[-1] if found is None else found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BOTH)
def test_what_peft_made_answers_the_same(name, method, reviews, tmp_path):
    peft = pytest.importorskip("peft")
    known = base(name)
    kind = "CAUSAL_LM" if name == "smollm2-135m" else "FEATURE_EXTRACTION"
    targets = ["q_proj", "v_proj"] if kind == "CAUSAL_LM" else ["query", "value"]
    config = (
        peft.LoraConfig(r=8, target_modules=targets, task_type=kind)
        if method == "lora" else peft.PrefixTuningConfig(num_virtual_tokens=8, task_type=kind)
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = peft.get_peft_model(known.net, config).eval()
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape)
    made.save_pretrained(tmp_path)
    theirs, given = padded(known.tokenizer, reviews[0][:6])
    with torch.no_grad():
        wanted = _hidden(made, theirs)
    net = base(name).net
    load_trained(net, tmp_path)
    found = states(weights_of(net)[0], Rows(ids=given["ids"], mask=given["mask"])).numpy()
    assert differs(found, wanted, given["mask"]) < 1e-3
