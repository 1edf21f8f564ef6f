"""Who is let in, what may change something, how much may come, what a browser is told."""

import re

import pytest
from tests.studio.conftest import Client

from sapwood.errors import ConfigError
from sapwood.studio.guarding import COOKIE, Door

KEY = "a-key-of-the-tests"


def every_route(app):
    """Yield (method, path) of every route, its places filled in."""
    for route in (inner for outer in app.routes for inner in outer.original_router.routes):
        place = re.sub(r"\{number\}", "1", route.path)
        place = re.sub(r"\{\w+\}", "reviews", place)
        for method in sorted(route.methods - {"HEAD"}):
            yield method, place


def test_every_route_but_the_login_needs_the_key(make):
    client, seen = Client(make(key=KEY)), 0
    for method, path in every_route(client.app):
        answer = client.ask(method, path)
        if path.startswith(("/login", "/static")):
            assert "location" not in answer.headers and "Log in first" not in answer.text
        elif method == "GET":
            assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
        else:
            assert answer.status_code == 401, (method, path)
        seen += 1
    assert seen > 25


def test_the_key_opens_and_the_cookie_is_no_ones_else(make):
    client = Client(make(key=KEY))
    wrong = client.post("/login", {"key": "another-key-entirely"})
    assert wrong.status_code == 401 and "That is not the key" in wrong.text
    assert client.get("/").status_code == 303
    let_in = client.post("/login", {"key": KEY}, follow=False)
    said = let_in.headers["set-cookie"]
    assert "HttpOnly" in said and "SameSite=strict" in said and KEY not in said
    assert client.get("/").status_code == 200
    client.post("/logout", follow=False)
    assert client.get("/").status_code == 303


def test_over_https_the_cookie_is_for_https(make):
    client = Client(make(key=KEY), base_url="https://studio.example")
    assert "Secure" in client.post("/login", {"key": KEY}, follow=False).headers["set-cookie"]


def test_a_session_ends_and_cannot_be_made_up():
    door = Door(key=KEY)
    session = door.session(now=1000.0)
    assert door.admits(session, now=1000.0) and not door.admits(session, now=1000.0 + 8 * 86_400)
    until, _, signed = session.partition(".")
    assert not door.admits(f"{int(until) + 1}.{signed}", now=1000.0)
    assert not Door(key=KEY + "x").admits(session, now=1000.0)
    for odd in ("", ".", "1", "x.y", f"{'9' * 40}.{signed}", "²." + signed):
        assert not door.admits(odd, now=1000.0)


def test_a_key_that_is_guessed_is_refused():
    with pytest.raises(ConfigError, match="12 or more"):
        Door(key="short")
    assert not Door().knows("")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.9:8321", ""])
def test_without_a_key_no_other_name_means_this_machine(make, host):
    answer = Client(make()).get("/", headers={"host": host})
    assert answer.status_code == 403 and "this machine only" in answer.text


@pytest.mark.parametrize("host", ["localhost:8321", "127.0.0.1", "[::1]:8321"])
def test_names_of_this_machine_are_answered(make, host):
    assert Client(make()).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_no_other_page_changes_anything(client, project, headers):
    for method, path in every_route(client.app):
        if method != "GET":
            assert client.ask(method, path, headers=headers).status_code == 403, path
    assert client.app.state.studio.workspace.projects() == (project,)


def test_its_own_page_and_no_browser_may(client, project):
    for headers in ({"origin": "http://127.0.0.1:8321"}, {"sec-fetch-site": "same-origin"}, {}):
        answer = client.post("/p/reviews/data", {"task": ""}, follow=False, headers=headers)
        assert answer.status_code == 303


def test_bodies_are_bounded_whatever_they_say(make, tmp_path):
    from sapwood.studio.guarding import Limits

    client = Client(make(limits=Limits(upload=100, form=50)))
    big = b"text,label\n" + b"x,y\n" * 50
    declared = client.ask("PUT", "/projects", params={"name": "a.csv"}, content=big)
    assert declared.status_code == 413

    async def pieces():
        yield big[:60]
        yield big[60:]

    headers = {"x-requested-with": "script"}
    told = client.ask("PUT", "/projects?name=a.csv", content=pieces(), headers=headers)
    assert told.status_code == 413 and told.json()["what"] == "The file is larger than 100 B."
    assert client.ask("POST", "/login", content=b"key=" + b"x" * 99).status_code == 413
    assert [p.name for p in (tmp_path / "ws").rglob("*") if p.is_file()] == []


def test_browsers_are_told_to_run_nothing_else(client, project):
    for path in ("/", "/p/reviews/data", "/p/reviews/try", "/none", "/static/studio.css"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy and "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy and headers["x-content-type-options"] == "nosniff"
    assert client.get("/", headers={"host": "evil"}).headers["x-content-type-options"] == "nosniff"


def test_no_page_has_a_style_or_a_script_inside(client, finished):
    for step in ("", "/p/reviews/data", "/p/reviews/baseline", "/p/reviews/adapt",
                 "/p/reviews/results", "/p/reviews/try", "/p/reviews/ship"):  # fmt: skip
        text = client.get(step or "/").text
        assert not re.search(r"<[^>]+ style=|<style|<script(?! type=\"module\" src=)| on\w+=", text)


def test_static_files_are_those_named_and_no_path(client):
    assert client.get("/static/studio.js").status_code == 200
    for name in ("../app.py", "%2e%2e%2fapp.py", "app.py", "words.toml"):
        assert client.get(f"/static/{name}").status_code == 404
    url = re.search(r"/static/studio.css\?v=\w+", client.get("/").text)[0]
    assert "immutable" in client.get(url).headers["cache-control"]
    assert client.get("/static/studio.css?v=1").headers["cache-control"] == "no-cache"
    assert COOKIE not in client.cookies
