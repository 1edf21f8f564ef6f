"""Dialogue: conversations as messages, or a question and its answer with what came before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from sapwood.interfaces import Example, Turn
from sapwood.registry import did_you_mean
from sapwood.tasks.kinds import Form, Opening, Task, Unusable, no_labels
from sapwood.tasks.readers import EDGES
from sapwood.tasks.roles import choose, role
from sapwood.tasks.rows import Record
from sapwood.tasks.spans import first_of, is_missing, items, read_text, shown, unpacked

MESSAGES = role(
    "messages",
    "messages conversations conversation dialogue dialog dialogs turns utterances chat 对话 会话",
)
SYSTEM = role("system", "system system_prompt 系统", optional=True)
HISTORY = role("history", "history 历史", optional=True)
PROMPT = role(
    "prompt",
    "prompt instruction query question user human request post 指令 问题 提问 input source text",
)
INPUT = role("input", "input context_input 输入", optional=True)
RESPONSE = role(
    "response",
    "response completion output answer reply assistant target chosen solution 回答 回复 答案 输出",
    answer=True,
)
ONLY_HISTORY = role("messages", "history 历史")
LAYOUTS = (
    (MESSAGES, SYSTEM),
    (PROMPT, RESPONSE, INPUT, SYSTEM, HISTORY),
    (ONLY_HISTORY, SYSTEM),
)
SPEAKERS = {
    "system": "system developer 系统",
    "user": "user human customer client prompter questioner person 用户 客户 人类 a",
    "assistant": "assistant gpt bot chatgpt model ai agent chatbot 助手 机器人 客服 b",
}
ROLES = {name: part for part, names in SPEAKERS.items() for name in names.split()}
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance")
LAST_CUT = "the last turn is the user's, left out since nobody answers it"
FIRST_CUT = "the first turn is the assistant's, left out since nobody asked"


def form(opening: Opening) -> Form:
    """Tell how conversations are written. Raises DataError E-DATA-004 to 006."""
    chosen, columns = choose(opening, LAYOUTS, show=("messages", "response"))
    if "messages" not in chosen:
        _, columns = choose(opening, LAYOUTS, show=("prompt", "response"))

    def read(record: Record, mended: list[str]) -> Example:
        turns: list[Turn] = []
        system = chosen.get("system")
        if system is not None and not is_missing(record.get(system)):
            turns.append(_turn("system", record.get(system), system))
        if "messages" in chosen:
            column = chosen["messages"]
            turns += read_turns(items(record.get(column), column))
        else:
            turns += _asked(record, chosen, need_answer=opening.need_answer)
        return conversation(turns, mended, need_answer=opening.need_answer)

    return Form(columns=columns, read=read)


def _asked(record: Record, chosen: Mapping[str, str], *, need_answer: bool) -> list[Turn]:
    """Return the turns of a prompt, its further input, its answer, and what came before."""
    turns: list[Turn] = []
    history = chosen.get("history")
    if history is not None and not is_missing(record.get(history)):
        turns += read_turns(items(record.get(history), history))
    prompt = unpacked(record.get(chosen["prompt"]))
    if isinstance(prompt, list):
        turns += read_turns(prompt)
    else:
        turns.append(_turn("user", prompt, chosen["prompt"]))
    more = chosen.get("input")
    if more is not None and not is_missing(record.get(more)) and turns[-1].role == "user":
        extra = read_text(record.get(more), more).strip(EDGES)
        turns[-1] = Turn(role="user", content=f"{turns[-1].content}\n{extra}")
    response = chosen.get("response")
    answer = unpacked(record.get(response)) if response is not None else None
    if isinstance(answer, list):
        turns += read_turns(answer)
    elif response is not None and (need_answer or not is_missing(answer)):
        turns.append(_turn("assistant", answer, response))
    return turns


def read_turns(found: Sequence[object]) -> list[Turn]:
    """Return turns from messages, from [question, answer] pairs, or from bare texts in turn.

    Raises Unusable for a message without text, or of somebody who is no user or assistant.
    """
    turns: list[Turn] = []
    for place, message in enumerate(found):
        if isinstance(message, Mapping):
            turns.append(_message(message))
        elif isinstance(message, list | tuple) and len(message) == 2:
            turns.append(_turn("user", message[0], "messages"))
            turns.append(_turn("assistant", message[1], "messages"))
        elif isinstance(message, str):
            turns.append(_turn(("user", "assistant")[place % 2], message, "messages"))
        else:
            raise Unusable("a message that is no object", shown(message))
    return turns


def _message(message: Mapping[str, object]) -> Turn:
    speaker = first_of(message, ROLE_KEYS)
    if not isinstance(speaker, str) or not speaker.strip():
        raise Unusable("a message without a role", shown(dict(message)))
    part = ROLES.get(speaker.strip().casefold())
    if part is None:
        raise Unusable(
            f"a message of role '{speaker}', which is none of system, user and assistant",
            fix=did_you_mean(speaker, ROLES).strip(),
        )
    return _turn(part, first_of(message, CONTENT_KEYS), "content")


def _turn(part: str, content: object, column: str) -> Turn:
    if isinstance(content, list):  # parts of several media; texts alone can be read
        texts = [p.get("text") if isinstance(p, Mapping) else p for p in content]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise Unusable("a message that holds something else than text", shown(content))
        content = "\n".join(str(text) for text in texts)
    if is_missing(content) and column == "content":
        raise Unusable(f"an empty message of the {part}")
    text = read_text(content, column).strip(EDGES).replace("\r\n", "\n")
    return Turn(role=part, content=text)


def conversation(turns: Sequence[Turn], mended: list[str], *, need_answer: bool) -> Example:
    """Return the example whose answer is the last turn. Raises Unusable where turns do not fit.

    After at most one system turn, user and assistant must alternate, the user first. `text` is
    what was said before the answer: one message as it is, several with who says them.
    """
    system = [turn for turn in turns[:1] if turn.role == "system"]
    said = list(turns[len(system) :])
    if any(turn.role == "system" for turn in said):
        raise Unusable("a system message that is not the first")
    if said and said[0].role == "assistant" and len(said) > 1:
        mended.append(FIRST_CUT)
        said = said[1:]
    if need_answer and len(said) > 1 and said[-1].role == "user":
        mended.append(LAST_CUT)
        said = said[:-1]
    if not said:
        raise Unusable("no messages")
    for one, other in pairwise(said):
        if one.role == other.role:
            raise Unusable(f"two messages of the {one.role} in a row, not in turn")
    if said[0].role == "assistant":
        raise Unusable("an answer and no question")
    answered = said[-1].role == "assistant"
    if need_answer and not answered:
        raise Unusable("a question and no answer")
    before = (*system, *(said[:-1] if answered else said))
    text = before[0].content
    if len(before) > 1:
        text = "\n".join(f"{turn.role}: {turn.content}" for turn in before)
    label = said[-1].content if answered else None
    return Example(text=text, label=label, turns=(*system, *said))


TASK = Task(
    name="dialogue",
    family="generation",
    metric="bits_per_byte",
    row='{"messages": [{"role": "user", "content": "Hello"},'
    ' {"role": "assistant", "content": "Good day!"}]}',
    about="Conversations: the next thing that the assistant says.",
    form=form,
    labels=no_labels,
)
