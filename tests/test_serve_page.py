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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200, 3840])
def test_it_can_be_read(
    browser: Browser,  # noqa: F811
    server: Server,
    scheme: str,
    width: int,
) -> None:
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    for path, there in (("", "#some .hit"), ("#/text/kind", ".hit .label"), ("#/tree", "#disk")):
        shown = Shown(browser, server, path, **options)
        shown.page.wait_for_selector(there)
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(shown.page)
        assert found.violations_count == 0, found.generate_report()
        assert shown.wrong == []
        shown.page.close()
