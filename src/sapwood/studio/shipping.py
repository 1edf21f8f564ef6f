"""What is handed over: the adaptation as one file, its card, and words that ask a served one."""

from __future__ import annotations

import json
import shlex
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sapwood.errors import ConfigError
from sapwood.studio.workspace import Project, Run
from sapwood.tasks.kinds import ONE_LABEL, WRITTEN


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """Words to copy: `key` names them, `language` is that of their syntax."""

    key: str
    language: str
    text: str


def adaptation_of(project: Project, run: Run) -> Path:
    """Return the folder of a run's adaptation. Raises ConfigError (E-CONFIG-315)."""
    folder = run.out / "adaptation"
    if not (folder / "adaptation.json").is_file():
        raise ConfigError(
            "E-CONFIG-315",
            f"Run {run.number} of '{project.name}' has no adaptation yet.",
            fix="wait until a run has finished",
        )
    return folder


def pack(folder: Path, name: str, file: IO[bytes]) -> None:
    """Write an adaptation's files as a zip archive with one folder `name` in it."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.is_symlink():
                archive.write(path, f"{name}/{path.name}")


def card_of(folder: Path) -> str:
    """Return the model card, "" where there is none."""
    try:
        return (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def question(task: str, model: str, text: str) -> tuple[str, dict[str, Any]]:
    """Return the route and the body that ask a served adaptation about a text.

    >>> question("entities", "people", "Ada came.")
    ('/v1/extract', {'model': 'people', 'input': 'Ada came.'})
    """
    if task == "dialogue":
        return "/v1/chat/completions", {
            "model": model, "messages": [{"role": "user", "content": text}],
        }  # fmt: skip
    if task in WRITTEN:
        return "/v1/completions", {"model": model, "prompt": text, "max_tokens": 100}
    route = "/v1/classify" if task in ONE_LABEL else "/v1/extract"
    return route, {"model": model, "input": text}


def snippets(address: str, task: str, model: str, text: str, *, key: bool) -> tuple[Snippet, ...]:
    """Return how to ask `model` at `address` with curl and Python; `key`: one is needed."""
    route, body = question(task, model, text)
    curl = [f"curl {address}{route}", "-H 'Content-Type: application/json'"]
    if key:
        curl.append('-H "Authorization: Bearer $SAPWOOD_KEY"')
    curl.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    python = _openai(address, body, key) if task in WRITTEN else _httpx(address + route, body, key)
    return (
        Snippet(key="ship_curl", language="shell", text=" \\\n  ".join(curl)),
        Snippet(key="ship_python", language="python", text=python),
    )


def _httpx(url: str, body: Mapping[str, Any], key: bool) -> str:
    lines = ["import os", ""] if key else []
    lines += ["import httpx", "", "answer = httpx.post(", f"    {_quoted(url)},"]
    if key:
        lines.append('    headers={"Authorization": f"Bearer {os.environ[\'SAPWOOD_KEY\']}"},')
    lines += [f"    json={_python(body)},", "    timeout=60,", ")", "print(answer.json())"]
    return "\n".join(lines)


def _openai(address: str, body: Mapping[str, Any], key: bool) -> str:
    chat = "messages" in body
    call = "chat.completions" if chat else "completions"
    secret = 'os.environ["SAPWOOD_KEY"]' if key else '"none"'
    lines = ["import os", ""] if key else []
    lines += ["from openai import OpenAI", "",
              f"client = OpenAI(base_url={_quoted(address + '/v1')}, api_key={secret})",
              f"answer = client.{call}.create("]  # fmt: skip
    lines += [f"    {name}={_python(value)}," for name, value in body.items()]
    lines += [")", f"print(answer.choices[0].{'message.content' if chat else 'text'})"]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _python(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # no body holds true, false or null


def commands_of(project: Project, run: Run, report: Mapping[str, Any]) -> tuple[Snippet, ...]:
    """Return the commands that take a run further, those that can do something with its parts."""
    out = shlex.quote(str(run.out))
    best = str(report.get("recommended"))
    row: Mapping[str, Any] = next((c for c in report["candidates"] if c["name"] == best), {})
    parts = row.get("parts") or {}
    said = [
        ("ship_serve", f"sapwood serve {out}"),
        ("ship_predict", f"sapwood predict {out} --data FILE"),
    ]
    if parts.get("method"):
        plain = shlex.quote(f"{project.id}-lora")
        other = shlex.quote(f"{project.id}-merged")
        said.append(("ship_check", f"sapwood check {out} --for vllm --fold {plain}"))
        said.append(("ship_merge", f"sapwood merge {out} OTHER --out {other}"))
    if row.get("base"):
        saved = shlex.quote(f"{project.id}-saved-model")
        said.append(("ship_export", f"sapwood export {out} --to saved-model --out {saved}"))
    return tuple(Snippet(key=key, language="shell", text=text) for key, text in said)
