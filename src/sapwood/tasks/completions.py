"""Stories and poems: a prompt, and the text that goes on from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from sapwood.interfaces import Example
from sapwood.tasks.kinds import Form, Opening, Task, Unusable, no_labels
from sapwood.tasks.readers import EDGES
from sapwood.tasks.roles import Role, choose, role
from sapwood.tasks.rows import Record
from sapwood.tasks.spans import is_missing, read_text

ASKED = "prompt instruction title question query premise topic 提示 题目 題目 标题 標題 指令 主题"
TOLD = (
    "completion target output response answer continuation story poem poetry"
    " 故事 诗 詩 续写 回答 输出"
)
PROMPT = role("prompt", f"{ASKED} input context source")
PROMPT_TEXT = role("prompt", "text content sentence 文本 内容 正文")
TEXT = role("completion", "text content body paragraphs 文本 内容 正文", answer=True)
COMPLETION = role("completion", TOLD, answer=True)
ALONE = Role(name="completion", names=(*COMPLETION.names, *TEXT.names))
INPUT = role("input", "input 输入", optional=True)
LAYOUTS = (
    (PROMPT, COMPLETION, INPUT),
    (PROMPT, TEXT, INPUT),
    (PROMPT_TEXT, COMPLETION, INPUT),
)
# The end of a first sentence: a full stop, question or exclamation mark, with quotes after it.
SENTENCE = re.compile(r".+?(?:[.!?…][\"'”’)]*(?=\s)|[。！？…][”’」』）]*|\n)", re.DOTALL)


def form(opening: Opening, unit: str) -> Form:
    """Tell how prompts and texts are written; `unit` ("line", "sentence") may prompt for the rest.

    Raises DataError E-DATA-004 to 006.
    """
    layouts = (*LAYOUTS, (ALONE,)) if opening.need_answer else LAYOUTS
    chosen, columns = choose(opening, layouts, show=("prompt", "completion"))
    if "prompt" not in chosen:
        column = chosen["completion"]
        note = f"no column holds prompts: the first {unit} of '{column}' asks for the rest"
        return Form(columns=columns, read=partial(_own_prompt, column, unit), notes=(note,))
    prompt, completion, more = chosen["prompt"], chosen.get("completion"), chosen.get("input")

    def read(record: Record, mended: list[str]) -> Example:
        del mended
        text = _plain(record, prompt)
        if more is not None and not is_missing(record.get(more)):
            text = f"{text}\n{_plain(record, more)}"
        label = None
        if completion is not None and (
            opening.need_answer or not is_missing(record.get(completion))
        ):
            label = _plain(record, completion)
        return Example(text=text, label=label)

    return Form(columns=columns, read=read)


def _plain(record: Record, column: str) -> str:
    value = record.get(column)
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        value = "\n".join(value)  # poems are often kept as a list of lines
    text = read_text(value, column).strip(EDGES).replace("\r\n", "\n")
    if not text:
        raise Unusable(f"column '{column}' empty")
    return text


def _own_prompt(column: str, unit: str, record: Record, mended: list[str]) -> Example:
    del mended
    text = _plain(record, column)
    found = SENTENCE.match(text) if unit == "sentence" else re.match(r".+?\n", text)
    first = found[0] if found else text
    rest = text[len(first) :].strip(EDGES)
    if not rest:
        raise Unusable(f"one {unit} alone, which leaves nothing to write")
    return Example(text=first.strip(EDGES), label=rest)


def _form(unit: str) -> Callable[[Opening], Form]:
    return lambda opening: form(opening, unit)


STORY = Task(
    name="story",
    family="generation",
    metric="bits_per_byte",
    row='{"prompt": "A fox found a drum.", "completion": "It had never seen one before. ..."}',
    about="Stories: the text that goes on from a prompt.",
    form=_form("sentence"),
    labels=no_labels,
)
POETRY = Task(
    name="poetry",
    family="generation",
    metric="bits_per_byte",
    row='{"prompt": "Autumn night", "completion": "The moon is late.\\nThe river keeps ..."}',
    about="Poems: lines from a title or a first line; forms can be checked.",
    form=_form("line"),
    labels=no_labels,
)
