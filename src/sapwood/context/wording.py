"""The words in which a base is asked for answers of each task, in English and Chinese."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sapwood.context.template import Template, default_template, is_chinese

LISTED = 24  # types named in an instruction; of more the demonstrations have to speak

_ENGLISH = {
    "entities": Template(
        instruction="List the entities of each text{types}, or none.",
        before="Text: ", between="\nEntities:",
    ),
    "relations": Template(
        instruction="List the relations between entities that each text states{types}, or none.",
        before="Text: ", between="\nRelations:",
    ),
    "events": Template(
        instruction="List the events of each text{types} with trigger and arguments, or none.",
        before="Text: ", between="\nEvents:",
    ),
    "multi-label": Template(
        instruction="List all labels that fit each text{types}, or none.",
        before="Text: ", between="\nLabels:",
    ),
    "dialogue": Template(
        instruction="Continue the conversation.", before="", between="\nReply:",
    ),
    "story": Template(
        instruction="Continue each story.", before="Beginning: ", between="\nStory:",
    ),
    "poetry": Template(
        instruction="Write a poem for each subject.", before="Subject: ", between="\nPoem:\n",
    ),
}  # fmt: skip
_CHINESE = {
    "entities": Template(
        instruction="列出每段文本中的实体{types}，没有则写none。",
        before="文本：", between="\n实体：",
    ),
    "relations": Template(
        instruction="列出每段文本中实体之间的关系{types}，没有则写none。",
        before="文本：", between="\n关系：",
    ),
    "events": Template(
        instruction="列出每段文本中的事件{types}及其触发词和论元，没有则写none。",
        before="文本：", between="\n事件：",
    ),
    "multi-label": Template(
        instruction="列出适合每段文本的所有标签{types}，没有则写none。",
        before="文本：", between="\n标签：",
    ),
    "dialogue": Template(instruction="继续对话。", before="", between="\n回复："),
    "story": Template(instruction="续写每个故事。", before="开头：", between="\n故事："),
    "poetry": Template(instruction="按题目写诗。", before="", between="\n诗：\n"),
}  # fmt: skip


def template_for(
    task: str, labels: Sequence[str], texts: Sequence[str], instruction: str | None = None
) -> Template:
    """Return the template of a task in the language of `texts`.

    `labels`: what answers may name, classes or types; they are listed in the instruction while they
    are few. `instruction` replaces the default one.
    """
    chinese = is_chinese(texts)
    made = (_CHINESE if chinese else _ENGLISH).get(task)
    if made is None:
        return default_template(labels, texts, instruction=instruction)
    if instruction is None:
        instruction = made.instruction.format(types=_types(labels, chinese))
    return replace(made, instruction=instruction)


def _types(types: Sequence[str], chinese: bool) -> str:
    if not types or len(types) > LISTED:
        return ""
    return f"（{'、'.join(types)}）" if chinese else f" ({', '.join(types)})"
