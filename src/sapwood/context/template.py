"""Templates: the text in which demonstrations and queries are shown to a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sapwood.errors import ConfigError
from sapwood.interfaces import Example

# Label names that need other words to read well in a Chinese prompt.
_CHINESE_WORDS = {
    "positive": "好评", "negative": "差评", "neutral": "中性",
    "pos": "好评", "neg": "差评", "yes": "是", "no": "否",
}  # fmt: skip
_SENTIMENT = {"positive", "negative", "neutral", "pos", "neg", "mixed"}
# After these no space stands before an answer; Chinese is written without any.
_NO_GAP = re.compile(r"(\s|[\u3000-\u303f\uff00-\uff65])$")
_NO_SPACE = re.compile(r"^(\s|[\u3000-\u303f\u3400-\u9fff\uff00-\uff65])")
_CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True, kw_only=True)
class Template:
    """How an example is written.

    A demonstration is `before + text + between + words[label]`, a query the same up to `between`;
    the instruction comes first and `separator` stands between the pieces. `words`: label -> the
    words the model reads or scores for it, with the space that precedes them.
    """

    instruction: str
    before: str
    between: str
    separator: str = "\n\n"
    words: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        double = sorted({w for w in self.words.values() if list(self.words.values()).count(w) > 1})
        if double:
            raise ConfigError(
                "E-CONFIG-030",
                f"Two labels have the same words: {', '.join(map(repr, double))}.",
                fix="give each label words of its own",
            )

    def query(self, text: str) -> str:
        """Return the query for `text`, ending where the label words begin."""
        return f"{self.before}{text}{self.between}"

    def demonstration(self, example: Example) -> str:
        """Return `example` as a demonstration with its answer."""
        assert example.label is not None
        return self.query(example.text) + self.answer(example.label)

    def answer(self, label: str) -> str:
        r"""Return an answer as it follows a query: the words of a label, or free words themselves.

        >>> Template(instruction="", before="", between="\nMood:").answer("fine")
        ' fine'
        >>> Template(instruction="", before="", between="\n").answer("fine")
        'fine'
        """
        known = self.words.get(label)
        if known is not None:
            return known
        close = _NO_GAP.search(self.between) or _NO_SPACE.search(label)
        return label if close or not label else f" {label}"

    def head(self, demonstrations: Sequence[Example], facts: Sequence[str] = ()) -> str:
        """Return the instruction and the demonstrations, without the separator that follows.

        `facts`: for each demonstration what is put before it, as it is.
        """
        pieces = [self.instruction] if self.instruction else []
        known = facts or [""] * len(demonstrations)
        shown = [k + self.demonstration(d) for k, d in zip(known, demonstrations, strict=True)]
        return self.separator.join([*pieces, *shown])

    def answer_first(self, label: str) -> str:
        r"""Return the answer for `label` and what opens the text after it.

        What stood between text and answer (a line break, mostly) stands between answer and text.

        >>> template = Template(
        ...     instruction="", before="Review: ", between="\nSentiment:", words={"+": " positive"}
        ... )
        >>> template.answer_first("+")
        'Sentiment: positive\nReview: '
        """
        asked = self.between.lstrip()
        gap = self.between[: len(self.between) - len(asked)] or "\n"
        return f"{asked}{self.words[label]}".lstrip() + gap + self.before

    def channel_demonstration(self, example: Example) -> str:
        """Return `example` with its answer before its text, for the noisy channel."""
        assert example.label is not None
        return self.answer_first(example.label) + example.text

    def channel_head(self, demonstrations: Sequence[Example]) -> str:
        """Return the instruction and the flipped demonstrations, without what follows them."""
        pieces = [self.instruction] if self.instruction else []
        return self.separator.join([*pieces, *map(self.channel_demonstration, demonstrations)])

    def premise(self) -> str:
        """Return the query without a text: only what asks for the answer, such as "Sentiment:"."""
        return self.between.lstrip()

    def prompt(self, demonstrations: Sequence[Example], text: str) -> str:
        """Return the whole prompt for `text`."""
        head = self.head(demonstrations)
        return (head + self.separator if head else "") + self.query(text)


def is_chinese(texts: Iterable[str]) -> bool:
    """Return whether at least a fifth of the characters are Chinese."""
    sample = "".join(text for _, text in zip(range(200), texts, strict=False))
    return len(_CJK.findall(sample)) >= 0.2 * max(1, len(sample))


def default_template(
    labels: Sequence[str], texts: Iterable[str], *, instruction: str | None = None
) -> Template:
    """Return a template that fits the labels and the language of `texts`.

    `instruction` replaces the default one. Labels are listed in it while they are at most 20.
    """
    chinese = is_chinese(texts)
    sentiment = {label.lower() for label in labels} <= _SENTIMENT
    if chinese:
        noun, kind = ("评论", "情感") if sentiment else ("文本", "类别")
        words = {label: _CHINESE_WORDS.get(label.lower(), _readable(label)) for label in labels}
        listed = f"（{'、'.join(words.values())}）" if len(labels) <= 20 else ""
        spoken = instruction if instruction is not None else f"判断每条{noun}的{kind}{listed}。"
        return Template(instruction=spoken, before=f"{noun}：", between=f"\n{kind}：", words=words)
    noun, kind = ("Review", "Sentiment") if sentiment else ("Text", "Category")
    words = {label: " " + _readable(label) for label in labels}
    listed = " as " + " or ".join(w.strip() for w in words.values()) if len(labels) <= 20 else ""
    spoken = f"Classify the {kind.lower()} of each {noun.lower()}{listed}."
    if instruction is not None:
        spoken = instruction
    return Template(instruction=spoken, before=f"{noun}: ", between=f"\n{kind}:", words=words)


def _readable(label: str) -> str:
    return re.sub(r"[_\s]+", " ", label).strip() or label
