"""What the OpenAPI document says, and what is answered, to data that fit it and to others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from tests.serving.conftest import ADMIN_KEY, FakeEngine, served, write_adaptation

from sapwood.serving import asked, wishes
from sapwood.serving.settings import Limits, Settings
from sapwood.serving.tensors import HEADER_BYTES
from sapwood.serving.vetting import BOUNDS

OPERATIONS = [
    ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("POST", "/v1/classify"),
    ("POST", "/v1/extract"), ("POST", "/v1/embeddings"), ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"), ("POST", "/admin/load"), ("POST", "/admin/unload"),
    ("POST", "/admin/alias"), ("POST", "/admin/rollback"), ("GET", "/healthz"),
    ("GET", "/readyz"), ("GET", "/metrics"),
]  # fmt: skip
BOUNDED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# Also right: 413 for what is too large in all, and 400 where the document can say no more than we
# check: 1.0 is a whole number to it, and no token to us.
ALSO_RIGHT = SchemathesisConfig.from_dict(
    {
        "checks": {
            "negative_data_rejection": {"expected-statuses": ["400", "404", "413"]},
            "positive_data_acceptance": {"expected-statuses": ["2xx", "400", "404", "409"]},
        }
    }
)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of a server that can do everything."""
    root = tmp_path_factory.mktemp("registry")
    write_adaptation(root / "0")
    given = Settings(key="key-of-the-tests", admin_key=ADMIN_KEY)
    with served(FakeEngine(["reviews", "0"]), given, Path(root)) as server:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        yield schemathesis.openapi.from_url(
            f"{server.url}/openapi.json", headers=headers, config=ALSO_RIGHT
        )


def test_every_operation_is_tried(document: Any) -> None:
    found = {(o.ok().method.upper(), o.ok().path) for o in document.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_as_the_document_says(
    document: Any, method: str, path: str, mode: GenerationMode
) -> None:
    operation = document[path][method]
    if mode == GenerationMode.NEGATIVE and not operation.body:
        pytest.skip("there is nothing that could be wrong")
    statuses: Counter[int] = Counter()

    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if mode == GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "reviews"  # which a name at random never is
        answer = case.call(headers={"Authorization": f"Bearer {ADMIN_KEY}"})
        case.validate_response(answer)
        statuses[answer.status_code] += 1

    ask()
    if mode == GenerationMode.NEGATIVE:
        assert set(statuses) <= {400, 404, 413}
    elif not path.startswith("/admin/") and "{" not in path:
        assert statuses[200] >= 1 and set(statuses) <= {200, 400, 404}


def test_the_page_about_serving_tells_every_route_and_meter(server: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    shown = {path.replace("{model}", "NAME") for _, path in OPERATIONS}
    assert [path for path in shown if path.removeprefix("/admin/") not in page] == []
    meters = {meter.name for meter in server.desk.meters.registry.collect()}
    assert len(meters) == 8 and [name for name in meters if f"`{name}" not in page] == []


def test_the_page_about_serving_tells_the_limits() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    most = Limits()
    for told in (
        f"{asked.CHARACTERS:,} characters", f"{asked.PROMPTS} texts", f"{asked.TEXTS} texts",
        f"lists of {asked.IDS:,} tokens", f"| {asked.MESSAGES}, of {asked.PARTS} parts",
        f"| `n` | {asked.SAMPLES} |", f"| {asked.TOKENS:,}; {wishes.TOKENS} where",
        f"{asked.STOPS} words of {asked.STOP_CHARACTERS} characters", f"| {asked.TOP} |",
        f"{asked.SCHEMA_CHARACTERS:,} characters, {asked.SCHEMA_LEVELS} levels",
        f"{most.body >> 20} MiB, {most.levels} levels of brackets, {most.body_seconds:.0f} s",
        f"{most.seconds:.0f} s from", f"over {BOUNDS.json >> 20} MiB", f"{BOUNDS.levels} levels;",
        f"over {BOUNDS.folder >> 30} GiB", f"a header over {HEADER_BYTES >> 20} MiB",
    ):  # fmt: skip
        assert told in page, told
