"""The studio beside an API at one address: each gets what is its own."""

from starlette.responses import PlainTextResponse
from tests.studio.conftest import Client

from sapwood.studio.app import Beside


def test_the_api_gets_its_own_paths_and_the_studio_all_others(make):
    studio, given = make(), PlainTextResponse("of the API")
    client = Client(Beside(studio, lambda scope: given))
    for path in ("/v1/models", "/admin/load", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert client.get(path).text == "of the API"
    assert "What should your model do?" in client.get("/").text
    assert client.get("/v1").status_code == 404


def test_before_anything_is_open_the_api_says_where_to_open_it(make):
    client = Client(Beside(make(), lambda scope: None))
    told = client.get("/v1/models")
    assert told.status_code == 404
    assert told.json()["error"]["message"].endswith("open an adaptation under Ship.")
