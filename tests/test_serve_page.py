"""The page of `hier serve`, worked through in a real browser where one is installed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page
from test_page import browser  # noqa: F401
from test_serve import Server

from hiercli import Client
from hiercli.data.corrections import Corrections

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def server(index: Path) -> Iterator[Server]:
    found = Server("--index", index, "--show-originals")
    yield found
    found.stop()


class Shown:
    """The page as somebody sees it, and everything that went wrong in it."""

    def __init__(self, browser: Browser, server: Server, path: str = "", **options: Any) -> None:  # noqa: F811
        self.wrong: list[str] = []
        self.server = server
        self.page: Page = browser.new_page(**{"viewport": {"width": 1200, "height": 800}} | options)
        self.page.on("console", lambda said: self.wrong.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda asked: self.asked(asked.url))
        self.page.goto(server.url + path)
        self.until("!!window.hier")

    def asked(self, url: str) -> None:
        if not url.startswith((self.server.url, "data:", "blob:")):
            self.wrong.append(f"asked for {url}")

    def until(self, expression: str) -> None:
        """Wait until something is so; the page itself evaluates no texts."""
        for _ in range(300):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(expression)

    def labels(self) -> list[str]:
        self.page.wait_for_selector("#answer[aria-busy=false] .hit .label")
        return self.page.locator(".hit .label").all_inner_texts()


@pytest.fixture
def query(photos: Path, tmp_path: Path) -> Path:
    file = tmp_path / "q.jpg"
    with Image.open(photos / "kind3" / "photo1.jpg") as picture:
        picture.rotate(2).save(file)
    return file


def test_an_image_is_searched_for(browser: Browser, server: Server, query: Path) -> None:  # noqa: F811
    shown = Shown(browser, server)
    assert shown.page.locator("#some .hit").count() > 3
    shown.page.set_input_files("#file", query)
    assert "kind3" in shown.labels()[0]
    assert shown.page.locator("#asked h2").inner_text()
    assert "%" in shown.page.locator(".hit .close").first.inner_text()
    shown.page.locator(".hit img").first.wait_for()
    shown.until("document.querySelector('.hit img').naturalWidth > 0")
    shown.page.locator(".hit").nth(1).click()
    assert shown.page.locator("#viewer").get_attribute("open") is not None
    assert "kind" in shown.page.inner_text("#viewed")
    before = shown.page.inner_text("#facts")
    shown.page.keyboard.press("ArrowRight")
    assert shown.page.inner_text("#facts") != before
    shown.page.keyboard.press("Escape")
    assert shown.page.locator("#viewer").get_attribute("open") is None
    assert shown.wrong == []


def test_an_image_is_dropped_and_pasted(browser: Browser, server: Server, query: Path) -> None:  # noqa: F811
    put = """([kind, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "q.jpg", { type: "image/jpeg" }));
        const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: data, bubbles: true })
          : new ClipboardEvent(kind, { clipboardData: data, bubbles: true });
        document.body.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        shown = Shown(browser, server)
        shown.page.evaluate(put, [kind, list(query.read_bytes())])
        assert "kind3" in shown.labels()[0]
        assert shown.wrong == []


def test_it_is_worked_by_keyboard(browser: Browser, server: Server) -> None:  # noqa: F811
    shown = Shown(browser, server)
    keyboard = shown.page.keyboard
    keyboard.press("/")
    keyboard.type("kind")
    keyboard.press("Enter")
    shown.labels()
    assert "#/text/kind" in shown.page.url
    assert "labels" in shown.page.inner_text("#asked h2")
    shown.page.locator(".hit").first.focus()
    keyboard.press("ArrowRight")
    keyboard.press("Enter")
    assert shown.page.locator("#viewer").get_attribute("open") is not None
    shown.page.locator("#like").focus()
    keyboard.press("Enter")
    shown.until("location.hash.startsWith('#/id/')")
    shown.until("document.querySelector('.hit .close').textContent.startsWith('the same image')")
    shown.page.go_back()
    shown.until("document.querySelector('#asked h2').textContent.includes('labels')")
    assert shown.wrong == []


def test_mistakes_are_told(browser: Browser, server: Server, tmp_path: Path) -> None:  # noqa: F811
    shown = Shown(browser, server)
    shown.page.fill("#words", "locomotive")
    shown.page.keyboard.press("Enter")
    shown.page.wait_for_selector("#failed:not([hidden])")
    assert "no label or level" in shown.page.inner_text("#failed")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    shown.page.set_input_files("#file", broken)
    shown.until("document.querySelector('#failed').textContent.includes('image')")
    # The browser itself says that the server refused; nothing else went wrong.
    assert all("status of 4" in said for said in shown.wrong), shown.wrong


def test_the_tree_is_walked(browser: Browser, server: Server, query: Path) -> None:  # noqa: F811
    shown = Shown(browser, server)
    shown.page.click("nav a >> nth=1")
    shown.page.wait_for_selector("#disk")
    shown.until("!!window.hier.state().tree")
    shown.page.fill("#query", "kind5")
    shown.page.keyboard.press("Enter")
    shown.until("document.querySelector('#panel h2').textContent === 'kind5'")
    assert "#/tree/" in shown.page.url
    address = shown.page.url
    again = Shown(browser, server, address.removeprefix(server.url))
    again.until("document.querySelector('#panel h2')?.textContent === 'kind5'")
    shown.page.click("nav a >> nth=0")
    shown.page.set_input_files("#file", query)
    shown.labels()
    shown.page.click("#asked button")  # its place in the tree
    shown.until("location.hash.startsWith('#/tree/')")
    shown.until("document.querySelector('#panel h2')?.textContent === 'kind3'")
    assert shown.wrong == [] and again.wrong == []


@pytest.fixture(scope="module")
def with_paths(index_with_faults: Path) -> Iterator[Server]:
    found = Server("--index", index_with_faults, "--show-paths")
    yield found
    found.stop()


def test_a_review_is_worked_through_by_keyboard(
    browser: Browser,  # noqa: F811
    with_paths: Server,
    tmp_path: Path,
) -> None:
    with Client(with_paths.url) as client:
        first = client.review().findings[0]
    assert first.kind == "relabel"
    shown = Shown(browser, with_paths)
    page, keyboard = shown.page, shown.page.keyboard
    page.focus("nav a[data-view=review]")
    keyboard.press("Enter")
    shown.until("!!hier.state().review")
    total = page.locator("#findings li").count()
    assert f"0 of {total} decided" in page.inner_text("#count")
    assert page.inner_text("#card h2") == f"{first.label}, or {first.proposal}?"
    assert "%" in page.inner_text("#card .why")
    shown.until("[...document.querySelectorAll('#card img')].every((one) => one.naturalWidth > 0)")
    assert page.locator("#card img").count() > 5
    keyboard.press("a")
    keyboard.press("2")
    assert page.evaluate("hier.state().review.state().kind") == "duplicate"
    keyboard.press("l")
    keyboard.type("a, <b>new</b> kind")
    keyboard.press("Enter")
    keyboard.press("a")
    keyboard.press("r")
    keyboard.press("u")
    assert f"3 of {total} decided" in page.inner_text("#count")
    keyboard.press("ArrowLeft")
    keyboard.press("ArrowLeft")
    assert page.inner_text("#card .state") == "Label: a, <b>new</b> kind"
    assert page.locator("#findings .mark.yes").count() == 2
    with page.expect_download() as waiting:
        keyboard.press("s")
    saved = tmp_path / "saved.csv"
    waiting.value.save_as(saved)
    decisions = Corrections.read(saved)
    assert sorted(decisions.labels.values()) == ["a, <b>new</b> kind", first.proposal]
    assert first.path in decisions.paths.values()
    assert len(decisions.excluded) == 1
    # A picture leads to a search, and back; the keys of the review are its own.
    page.locator("#card a").first.click()
    shown.labels()
    keyboard.press("r")
    page.go_back()
    assert f"3 of {total} decided" in page.inner_text("#count")
    page.reload()
    shown.until("!!window.hier?.state().review")
    assert f"3 of {total} decided" in page.inner_text("#count")
    assert shown.wrong == []


def test_a_review_without_paths_is_not_saved(
    browser: Browser,  # noqa: F811
    index_with_faults: Path,
) -> None:
    server = Server("--index", index_with_faults)
    shown = Shown(browser, server, "#/review")
    shown.until("!!window.hier.state().review")
    assert shown.page.locator("#save").is_disabled()
    assert "--show-paths" in shown.page.inner_text("#reviewview footer")
    assert ".jpg" not in shown.page.inner_text("#reviewview")
    shown.page.keyboard.press("s")
    shown.page.keyboard.press("a")
    assert "1 of" in shown.page.inner_text("#count")
    shown.page.click("nav a[data-view=tree]")
    shown.until("!!window.hier.state().tree")
    ids = "[...document.querySelectorAll('[id]')].map((one) => one.id)"
    assert shown.page.evaluate(f"new Set({ids}).size === {ids}.length"), "views share no ids"
    shown.page.keyboard.press("a")
    shown.page.click("nav a[data-view=review]")
    assert "1 of" in shown.page.inner_text("#count")
    server.stop()
    assert shown.wrong == []


def test_a_review_follows_the_menu_of_indexes(
    browser: Browser,  # noqa: F811
    index: Path,
    index_with_faults: Path,
) -> None:
    server = Server("--index", index, "--index", index_with_faults)
    shown = Shown(browser, server, "#/review")
    shown.until("!!window.hier.state().review")
    count = shown.page.locator("#findings li").count()
    shown.page.select_option("#indexes", "faulty")
    shown.until(f"document.querySelectorAll('#findings li').length > {count}")
    shown.page.focus("#indexes")
    shown.page.keyboard.press("a")  # goes to the menu
    assert shown.page.inner_text("#count").startswith("0 of")
    server.stop()
    assert shown.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200, 3840])
def test_it_can_be_read(
    browser: Browser,  # noqa: F811
    server: Server,
    with_paths: Server,
    scheme: str,
    width: int,
) -> None:
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    for path, there, asked in (
        ("", "#some .hit", server), ("#/text/kind", ".hit .label", server),
        ("#/tree", "#disk", server), ("#/review", "#card img", with_paths),
    ):  # fmt: skip
        shown = Shown(browser, asked, path, **options)
        shown.page.wait_for_selector(there)
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(shown.page)
        assert found.violations_count == 0, found.generate_report()
        assert shown.wrong == []
        shown.page.close()
