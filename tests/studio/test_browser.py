"""The whole job in a real browser, over a real run of a tiny base: file in, adapt, try, ship.

Each page is looked at by axe-core in both colour schemes and at three widths; screenshots are in
the test's folder.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
import uvicorn
from tests.studio.conftest import Finder
from tests.studio.test_trying import EVENT, RELATIONS, TEXT, rows_of

WIDTHS = (400, 900, 1400)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on the path"),
]


@pytest.fixture
def address(tmp_path):
    """The address of `sapwood ui` in a process of its own."""
    command = [sys.executable, "-m", "sapwood", "ui", "--port", "0", "--json", "--lang", "en"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SAPWOOD_KEY": ""}
    server = subprocess.Popen(
        [*command, "--folder", tmp_path / "ws"], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=environment, text=True,
    )  # fmt: skip
    yield json.loads(server.stdout.readline())["url"]
    server.terminate()
    assert server.wait(20) in (0, -15, 143, 130)
    server.stdout.close()


@pytest.fixture
def page():
    """A page of a browser without a cache, whose complaints are kept in `.complaints`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(bypass_csp=False, locale="en-GB").new_page()
        page.complaints = []
        page.on(
            "console", lambda m: m.type in ("error", "warning") and page.complaints.append(m.text)
        )
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.set_default_timeout(90_000)
        yield page
        browser.close()


class Eye:
    """Looks at a page as it is: axe-core, the width, a picture."""

    def __init__(self, page, folder):
        self.page, self.folder = page, folder
        self.axe = files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")

    def look(self, name):
        for scheme in ("dark", "light"):
            self.page.emulate_media(color_scheme=scheme)
            self.page.wait_for_timeout(50)
            # the page's own policy lets no script in, so axe comes through the debugger
            self.page.context.new_cdp_session(self.page).send(
                "Runtime.evaluate", {"expression": self.axe}
            )
            found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            wrong = [(v["id"], [n["html"][:160] for n in v["nodes"]]) for v in found["violations"]]
            assert wrong == [], f"{name}, {scheme}"
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": 900})
            wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{name} is {wide} px too wide at {width} px"
            self.page.screenshot(path=self.folder / f"{name}-{width}.png", full_page=True)


def test_from_a_file_to_an_answer(page, address, write_rows, small_base, tmp_path):
    eye = Eye(page, tmp_path)
    page.goto(address)
    eye.look("home")
    page.set_input_files("#file", write_rows(tmp_path / "reviews.csv"))
    page.wait_for_url("**/p/reviews/data")
    assert page.locator("h1").inner_text() == "Data"
    eye.look("data")
    page.get_by_role("link", name="Next: Baseline").click()
    page.locator(".tiles").wait_for()
    eye.look("baseline")

    page.get_by_role("link", name="Next: Adapt").click()
    page.get_by_label("another: its name").check()
    page.get_by_label("Name of the other base").fill(str(small_base))
    page.get_by_label("Time to spend").fill("0")
    assert page.locator("output").inner_text() == "30s"
    page.get_by_text("More settings").click()
    page.get_by_label("Small encoder beside it").select_option("none")
    eye.look("adapt-form")
    page.get_by_role("button", name="Start").click()
    page.locator("#live tr.best").wait_for()
    page.reload()  # nothing of a run is in the page
    page.locator("#live tr.best").wait_for()
    eye.look("adapt-live")
    page.get_by_role("link", name="See the results").wait_for()
    assert page.locator("#say").inner_text() == "Finished"
    eye.look("adapt-done")

    page.get_by_role("link", name="See the results").click()
    assert "TF-IDF" in page.locator(".lead").inner_text()
    eye.look("results")
    page.get_by_role("link", name="Next: Try").click()
    page.locator("#text").fill("a great film")
    page.get_by_role("button", name="Ask").click()
    page.locator(".probable").nth(3).wait_for()
    assert page.locator("article.won .first .name").inner_text() == "positive"
    eye.look("try")
    page.get_by_label("Right label").select_option("positive")
    page.get_by_role("button", name="Add the row").click()
    assert "121 rows" in page.locator(".notice").inner_text()

    page.locator("#rail").get_by_role("link", name="Ship").click()
    page.locator(".fine").wait_for()
    eye.look("ship")
    with page.expect_download() as coming:
        page.get_by_role("link", name="Download (.zip)").click()
    assert coming.value.suggested_filename == "reviews-1.zip"
    answer = httpx.post(address + "v1/classify", json={"model": "reviews", "input": "a great film"})
    assert answer.json()["data"][0]["label"] == "positive"
    page.get_by_role("link", name="中文").click()
    assert page.locator("h1").inner_text() == "交付"
    eye.look("ship-zh")
    assert page.complaints == []


def test_every_step_is_reached_by_keys_and_seen(page, address, write_rows, tmp_path):
    page.goto(address)
    page.set_input_files("#file", write_rows(tmp_path / "reviews.csv"))
    page.wait_for_url("**/p/reviews/data")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('href') || ''"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement === document.body")
    for step in ("baseline", "adapt", "results", "try", "ship"):
        assert f"/p/reviews/{step}" in reached
    assert page.complaints == []


def test_a_file_that_cannot_be_read_says_so(page, address, tmp_path):
    eye = Eye(page, tmp_path)
    page.goto(address)
    path = Path(tmp_path / "notes.exe")
    path.write_text("x")
    page.set_input_files("#file", path)
    page.locator("[role=alert]").wait_for()
    assert "no kind of data file" in page.locator("[role=alert]").inner_text()
    eye.look("refused")
    page.complaints.clear()  # the browser itself tells of a 400
    odd = Path(tmp_path / "odd.csv")
    odd.write_text("a,b\n1,2\n3,4\n")
    page.set_input_files("#file", odd)
    page.wait_for_url("**/p/odd/data")
    assert "cannot tell which columns" in page.locator(".notice").inner_text()
    eye.look("unread")
    assert page.complaints == []


@pytest.fixture
def shown(tried):
    """Opener of a server at a finished run of a task, over an engine that finds what it is told."""
    servers = []

    def opened(task, rows, frames=()):
        with ThreadPoolExecutor(1) as aside:  # this thread has the browser's loop
            client = aside.submit(tried, task, rows, Finder(frames)).result()
        config = uvicorn.Config(client.app, port=0, log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/p/rows/try"

    yield opened
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("task", ["pairs", "relations", "events"])
def test_pairs_relations_and_events_are_tried(page, shown, tmp_path, task, lang):
    frames = {"pairs": (), "relations": RELATIONS, "events": (EVENT,)}[task]
    page.goto(shown(task, rows_of(task), frames) + f"?lang={lang}")
    if task == "pairs":
        assert page.locator("#try [name=head]").input_value() == "Ann"
        page.locator("#try [name=tail]").fill("Bo left")
    else:
        page.locator("#text").fill(TEXT if task == "relations" else "Ann sold car & fled")
    page.keyboard.press("Control+Enter") if task != "pairs" else page.keyboard.press("Enter")
    page.locator("article:last-of-type .reply mark").first.wait_for()
    answer = page.locator("article.won .reply")
    wanted = {"pairs": "Bo left", "relations": "Ann PER — met → Bo PER", "events": "Seller"}[task]
    assert wanted in " ".join(answer.inner_text().split())
    eye = Eye(page, tmp_path)
    eye.look(f"try-{task}-{lang}")
    if task == "pairs":
        assert page.locator("#add [name=tail]").input_value() == "Bo left"
    else:
        said = page.locator("#add [name=answer]").input_value()
        assert (
            said
            == {
                "relations": "met: Ann (PER) -> Bo #1 (PER)\nleft <it>: Bo #2 (PER) -> met",
                "events": "Sale: sold | Seller: Ann | Thing: car",
            }[task]
        )
        page.locator("#add [name=answer]").fill(said.partition("\n")[0])
    page.locator("#add button").click()
    count = len(rows_of(task)) + 1
    words = {"en": f"The data have {count} rows now", "zh": f"现在共有 {count} 行数据"}[lang]
    assert words in page.locator("main").inner_text()
    eye.look(f"added-{task}-{lang}")
    assert page.complaints == []
