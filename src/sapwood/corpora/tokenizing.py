"""The corpus's own tokenizer: byte-level BPE, WordPiece or Unigram, the same every time it is made.

Sennrich et al. (2016) for BPE, Wu et al. (2016) for WordPiece, Kudo (2018) for Unigram. Only the
BPE trainer of the `tokenizers` library gives the same result twice: its WordPiece trainer numbers
pieces, and its Unigram trainer sums, in the order of a hash map seeded anew in every process. So
WordPiece is read off a BPE whose words begin with a mark, and Unigram has its own trainer.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sapwood.corpora.languages import HAN
from sapwood.corpora.merges import (
    ALPHABET_SHARE,
    MARK,
    RARE,
    Texts,
    added,
    alphabet,
    merged,
)
from sapwood.corpora.unigram import train_unigram
from sapwood.corpora.words import BREAK, broken
from sapwood.errors import ConfigError, ModelError
from sapwood.files import new_folder, write_text

KINDS = ("bpe", "wordpiece", "unigram")
MODES = ("[NLU]", "[NLG]", "[S2S]")  # UL2's denoisers (Tay et al., 2022)
FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")  # as StarCoder names them
PLAIN = {
    "pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
    "cls_token": "<cls>", "sep_token": "<sep>", "mask_token": "<mask>",
}  # fmt: skip
BERT = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
    "mask_token": "[MASK]", "bos_token": "<s>", "eos_token": "</s>",
}  # fmt: skip
COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
          "added_tokens.json", "chat_template.jinja")  # fmt: skip


def specials(kind: str) -> dict[str, str]:
    """Return the special tokens of a kind by their names in transformers."""
    return BERT if kind == "wordpiece" else PLAIN


def fewest(kind: str, sentinels: int) -> int:
    """Return the smallest vocabulary a kind can have: specials, sentinels, bytes, some pieces."""
    return len(specials(kind)) + len(FIM) + len(MODES) + sentinels + 256 + 64


def train(kind: str, texts: Texts, size: int, sentinels: int, folder: Path) -> int:
    """Train a tokenizer of `size` tokens in all, write it to `folder`, return its true size.

    `texts()` gives the same texts each time. Ids: specials first, then pieces, then sentinels with
    <extra_id_0> last, as T5 counts them down. A small corpus may hold fewer pieces than asked for.
    """
    first = [*specials(kind).values(), *FIM, *MODES]
    room = size - sentinels
    with _alone():
        made = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": train_unigram}[kind](
            texts, room, first
        )
    made.add_special_tokens([f"<extra_id_{n}>" for n in reversed(range(sentinels))])
    with new_folder(folder) as draft:
        write_text(draft / "tokenizer.json", made.to_str(pretty=False))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000_000,
            **specials(kind),
        }
        write_text(draft / "tokenizer_config.json", json.dumps(config, indent=1) + "\n")
    return int(made.get_vocab_size())


@contextmanager
def _alone() -> Iterator[None]:
    """Let the library use one thread: its sums and orders then depend on nothing else."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _bpe(texts: Texts, room: int, first: list[str]) -> Any:
    """Return a byte-level BPE, split as GPT-2 splits (Radford et al., 2019)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=room, special_tokens=added(first), min_frequency=RARE, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    parts = pre_tokenizers.Sequence([pre_tokenizers.Split(BREAK, "removed"), made.pre_tokenizer])
    whole, made.pre_tokenizer = made.pre_tokenizer, parts
    made.train_from_iterator(map(broken, texts()), trainer)
    made.pre_tokenizer = whole
    return made


def _wordpiece(texts: Texts, room: int, first: list[str]) -> Any:
    """Return a WordPiece tokenizer that splits as BERT's cased ones do."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    marked = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(),
         pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always", split=False)]
    )  # fmt: skip
    letters = alphabet(texts, int(room * ALPHABET_SHARE))
    pieces = merged(texts, letters, 2 * room, normalizer, marked)
    wanted = [*first, *letters, *(f"##{letter}" for letter in letters if not HAN.match(letter))]
    for piece in pieces:
        wanted.append(piece[1:] if piece[0] == MARK else f"##{piece}")
    vocabulary: dict[str, int] = {}
    for token in wanted:
        if token and len(vocabulary) < room:
            vocabulary.setdefault(token, len(vocabulary))
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    made.add_special_tokens(added(first))
    return made


def adopt(source: Path, folder: Path) -> int:
    """Copy the tokenizer of a base into the corpus; return the size of its vocabulary.

    Raises ConfigError E-CONFIG-232 where there is none, ModelError E-MODEL-180 where it is not one
    of the `tokenizers` library.
    """
    if not source.is_dir():
        raise ConfigError(
            "E-CONFIG-232",
            f"--tokenizer {source} is neither a folder nor one of {', '.join(KINDS)}",
            fix="give the folder of a base, a base's name, or the kind to train",
        )  # fmt: skip
    if not (source / "tokenizer.json").is_file():
        raise ModelError(
            "E-MODEL-180", f"{source} holds no tokenizer.json, which offsets of words need",
            fix="save it with transformers: AutoTokenizer.from_pretrained(X).save_pretrained(Y)",
        )  # fmt: skip
    with new_folder(folder) as draft:
        for name in COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, draft / name)
        if not (draft / "tokenizer_config.json").is_file():
            config = {"tokenizer_class": "PreTrainedTokenizerFast"}
            write_text(draft / "tokenizer_config.json", json.dumps(config) + "\n")
    return vocabulary_size(opened(folder))


def opened(folder: Path) -> Any:
    """Return the tokenizer of a folder, without truncation and padding."""
    from tokenizers import Tokenizer

    try:
        made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises plain Exception
        raise ModelError(
            "E-MODEL-181", f"{folder / 'tokenizer.json'} cannot be read: {error}",
            fix="build the corpus again with --fresh, or give another --tokenizer",
        ) from None  # fmt: skip
    made.no_truncation()
    made.no_padding()
    return made


def vocabulary_size(made: Any) -> int:
    """Return one more than the largest id, added tokens counted."""
    return 1 + int(max(made.get_vocab(with_added_tokens=True).values()))
