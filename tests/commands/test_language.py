"""`sapwood eval`, `compare` and `chat` on language models as they are."""

from __future__ import annotations

import gzip
import io
import json
import math

import pytest
import torch

from sapwood.models.arpa import write_arpa
from sapwood.models.counting import Symbols
from sapwood.models.language import encoded
from sapwood.models.ngram import count_and_smooth, load, sequences_in
from sapwood.models.rnn import RNNConfig, RNNForCausalLM

CPU = ("--device", "cpu", "--dtype", "float32")
LINES = ["the sea is near", "the song is on the sea", "so the town is near the sea"]


@pytest.fixture(scope="module")
def trigram(tmp_path_factory, tiny_tokenizer):
    """A folder with a trigram model of three lines."""
    steps = count_and_smooth(
        sequences_in(iter(encoded(tiny_tokenizer, LINES * 3))),
        order=3, symbols=Symbols.of(tiny_tokenizer),
    )  # fmt: skip
    while True:
        try:
            next(steps)
        except StopIteration as end:
            folder = tmp_path_factory.mktemp("lm") / "trigram"
            end.value.save(folder, tiny_tokenizer)
            return folder


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory, tiny_tokenizer):
    """A folder with a random recurrent net."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lm") / "rnn"
    RNNForCausalLM(RNNConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, bos_token_id=2, eos_token_id=1,
    )).save_pretrained(folder)  # fmt: skip
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("the sea is on the town\n\n  so it is 猫 \n" + "the song\n" * 8)
    return path


def test_eval_scores_texts(sapwood, trigram, texts, tiny_tokenizer):
    ran = sapwood("eval", trigram, "--data", texts, *CPU, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    lines = ["the sea is on the town", "so it is 猫", *["the song"] * 8]
    nats = sum(own.sum() for own in load(trigram).scored(encoded(tiny_tokenizer, lines)))
    size = sum(len(line.encode()) for line in lines)
    assert (found["model"], found["family"], found["texts"]) == (str(trigram), "n-gram", 10)
    assert (found["bytes"], found["unknown"]) == (size, 0)
    assert found["bits_a_byte"]["value"] == pytest.approx(nats / math.log(2) / size)
    assert found["perplexity_a_token"]["value"] == pytest.approx(math.exp(nats / found["tokens"]))
    for name in ("bits_a_byte", "perplexity_a_token", "perplexity_a_word"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]


def test_eval_shows_them_to_people(sapwood, recurrent, texts):
    ran = sapwood("eval", recurrent, "--data", texts, *CPU)
    assert ran.code == 0, ran.err
    names = [line[:22].strip() for line in ran.out.splitlines()]
    assert names == ["family", "texts", "tokens", "bytes", "bits a byte", "perplexity a token",
                     "perplexity a word"]  # fmt: skip
    assert "recurrent" in ran.out and " to " in ran.out.splitlines()[4]


def test_eval_takes_tables_and_held_out_documents(sapwood, trigram, tmp_path):
    rows = [{"body": "the sea", "part": "held"}, {"body": "", "part": "held"},
            {"body": "so it is", "part": "train"}]  # fmt: skip
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = sapwood("eval", trigram, "--data", tmp_path / "d.jsonl", "--text", "body", *CPU, "--json")
    assert ran.code == 0 and json.loads(ran.out)["texts"] == 2
    assert "not scored: 1 row: column 'body' empty (row 2)" in ran.err
    corpus = tmp_path / "corpus"
    (corpus / "documents").mkdir(parents=True)
    (corpus / "corpus.json").write_text("{}")
    with gzip.open(corpus / "documents" / "00000.jsonl.gz", "wt") as file:
        for number, row in enumerate(rows):
            file.write(json.dumps({"id": number, "text": row["body"], "part": row["part"]}) + "\n")
    ran = sapwood("eval", trigram, "--data", corpus, *CPU, "--json")
    assert ran.code == 0 and json.loads(ran.out)["texts"] == 1


def test_words_outside_the_vocabulary_are_told(sapwood, trigram, tmp_path):
    words = ["<unk>", "<s>", "</s>", "the", "sea"]
    steps = count_and_smooth(
        sequences_in(iter([[3, 4], [3, 4, 3]])), order=2,
        symbols=Symbols(size=5, bos=1, eos=2, unk=0),
    )  # fmt: skip
    while True:
        try:
            next(steps)
        except StopIteration as end:
            write_arpa(end.value, words, tmp_path / "lm.arpa")
            break
    (tmp_path / "t.txt").write_text("the old sea\nthe sea\n")
    ran = sapwood("eval", tmp_path / "lm.arpa", "--data", tmp_path / "t.txt", *CPU)
    assert ran.code == 0
    assert "1 of 7 tokens are outside its vocabulary" in ran.err
    both = sapwood("compare", tmp_path / "lm.arpa", trigram, "--data", tmp_path / "t.txt", *CPU)
    assert both.code == 0 and "bits a byte are too low" in both.err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--write", "3"), "--write is for adaptations, which answer"),
        (("--label", "x"), "--label is for adaptations, which answer"),
        (("--beams", "3"), "--beams is for adaptations, which answer"),
    ],
)
def test_eval_refuses_what_speaks_of_answers(sapwood, trigram, texts, flags, told):
    ran = sapwood("eval", trigram, "--data", texts, *flags)
    assert ran.code == 2 and "E-CONFIG-221" in ran.err and told in ran.err


@pytest.mark.parametrize(
    ("content", "code"), [(b"\n \n", "E-DATA-173"), (b"a\xff\xfe\n", "E-DATA-174")]
)
def test_eval_tells_what_is_wrong_with_the_texts(sapwood, trigram, tmp_path, content, code):
    (tmp_path / "t.txt").write_bytes(content)
    ran = sapwood("eval", trigram, "--data", tmp_path / "t.txt")
    assert ran.code == 3 and code in ran.err


def test_an_encoder_is_refused(sapwood, tiny_checkpoint, texts):
    ran = sapwood("eval", tiny_checkpoint("bert"), "--data", texts, *CPU)
    assert ran.code == 5 and "E-MODEL-174" in ran.err


def test_compare_shows_families_side_by_side(sapwood, trigram, recurrent, small_base, texts):
    ran = sapwood("compare", trigram, recurrent, small_base, "--data", texts, *CPU, "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["models"]
    assert [row["family"] for row in rows] == ["n-gram", "recurrent", "transformer"]
    assert "against_first" not in rows[0]
    for row in rows[1:]:
        found = row["against_first"]
        more = row["bits_a_byte"]["value"] - rows[0]["bits_a_byte"]["value"]
        assert found["bits_a_byte"] == pytest.approx(more)
        assert found["low"] <= found["bits_a_byte"] <= found["high"]
        assert found["verdict"] == "worse" and found["low"] > 0
    plain = sapwood("compare", trigram, recurrent, small_base, "--data", texts, *CPU)
    lines = plain.out.splitlines()
    assert lines[0].split("  ")[0] == "model" and lines[-1].startswith("10 texts, ")
    assert sum(": worse, +" in line and line.endswith(" bits a byte") for line in lines) == 2
    assert max(map(len, lines)) <= 80
    same = sapwood("compare", trigram, trigram, "--data", texts, *CPU, "--json")
    assert json.loads(same.out)["models"][1]["against_first"]["verdict"] == "not separable"


def test_compare_needs_language_models(sapwood, trigram, tmp_path, texts):
    ran = sapwood("compare", trigram, "--data", texts)
    assert ran.code == 2 and "E-COMPARE-001" in ran.err
    ran = sapwood("compare", trigram, tmp_path, "--data", texts)
    assert ran.code == 2 and f"{tmp_path} is no language model" in ran.err


@pytest.fixture
def say(sapwood, monkeypatch):
    def run(folder, lines, *flags):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        return sapwood("chat", *folder, *CPU, *flags)

    return run


def test_chat_continues_each_line(say, trigram, recurrent):
    ran = say([trigram], "so the town\nthe song\n", "--decoding", "greedy", "--json")
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["message"] for row in rows] == ["so the town", "the song"]
    assert rows[0]["answer"] == " is near the sea" and not rows[0]["stopped"]
    plain = say([trigram], "so the town\n/help\n/exit\nnot read\n", "--decoding", "greedy")
    assert plain.out == " is near the sea\n"
    assert "n-gram: each line is continued" in plain.err
    assert "nothing is kept from line to line" in plain.err
    named = say(["--model", trigram], "so the town\n", "--decoding", "greedy")
    assert named.out == plain.out
    drawn = [say([recurrent], "the\nthe\n", "--max-tokens", "9", "--json").out for _ in range(2)]
    told = [[json.loads(line)["answer"] for line in out.splitlines()] for out in drawn]
    assert told[0] == told[1] and told[0][0] != told[0][1], "each line has its own draws"


def test_chat_with_a_pretrained_folder_continues_and_with_a_base_talks(say, small_base):
    assert "each line is continued" in say([small_base], "the\n", "--max-tokens", "3").err
    assert "tokens of context" in say(["--model", small_base], "the\n", "--max-tokens", "3").err


def test_an_error_of_one_line_does_not_end_it(say, trigram):
    ran = say([trigram], "the\nsea\n", "--contrast", "0.5", "--json")
    assert ran.code == 0
    assert [json.loads(line)["error"] for line in ran.out.splitlines()] == ["E-MODEL-175"] * 2


def test_options_of_a_conversation_are_refused(say, trigram):
    ran = say([trigram], "the\n", "--system", "be brief")
    assert ran.code == 2 and "E-CONFIG-223" in ran.err and "--system is for conv" in ran.err


def test_a_folder_becomes_an_arpa_file_and_back(sapwood, trigram, tmp_path, texts):
    made = sapwood("models", "arpa", trigram, "--out", tmp_path / "lm.arpa.gz", "--json")
    assert made.code == 0, made.err
    sizes = list(load(trigram).sizes)
    assert json.loads(made.out) == {"out": str(tmp_path / "lm.arpa.gz"), "order": 3,
                                    "ngrams": sizes}  # fmt: skip
    back = sapwood("models", "arpa", tmp_path / "lm.arpa.gz", "--tokenizer", trigram, "--out",
                   tmp_path / "again")  # fmt: skip
    assert back.code == 0 and f"{sizes[1]} 2-grams, {sizes[2]} 3-grams" in back.out
    found = [
        json.loads(sapwood("eval", folder, "--data", texts, *CPU, "--json").out)["bits_a_byte"]
        for folder in (trigram, tmp_path / "again")
    ]
    assert found[0]["value"] == pytest.approx(found[1]["value"], abs=1e-5)


def test_an_arpa_file_of_words_becomes_a_folder_of_words(sapwood, tmp_path):
    (tmp_path / "lm.arpa").write_text(
        "\\data\\\nngram 1=4\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\n-0.5\t</s>\n-0.3\tsea\n\n\\end\\\n"
    )
    made = sapwood("models", "arpa", tmp_path / "lm.arpa", "--out", tmp_path / "lm")
    assert made.code == 0, made.err
    (tmp_path / "t.txt").write_text("sea sea\n")
    found = json.loads(sapwood("eval", tmp_path / "lm", "--data", tmp_path / "t.txt", "--json").out)
    assert found["tokens"] == 3
    assert found["perplexity_a_token"]["value"] == pytest.approx(10 ** (1.1 / 3))


def test_what_cannot_be_turned_into_what_is_told(sapwood, trigram, tmp_path):
    for source, out in ((trigram, tmp_path / "folder"), (tmp_path, tmp_path / "x.arpa")):
        ran = sapwood("models", "arpa", source, "--out", out)
        assert ran.code == 2 and "E-CONFIG-224" in ran.err


def test_an_n_gram_is_no_base_to_adapt(sapwood, trigram):
    ran = sapwood("models", "show", trigram)
    assert ran.code == 5 and "is an n-gram model: it has no layers that could be adapted" in ran.err
