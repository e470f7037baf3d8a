"""The pages, in a real browser where one is installed (`apt-get install chromium`)."""

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Hier
from playwright.sync_api import Browser, Page, sync_playwright

from hiercli import Collection
from hiercli.data.corrections import Corrections
from hiercli.hierarchy.node import Node
from hiercli.reports import disk
from hiercli.reports import review as review_pages
from hiercli.review.finding import Finding
from hiercli.review.review import Review

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine: `apt-get install chromium` brings one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


class Shown:
    """A page that was opened, and everything that went wrong in it."""

    def __init__(self, browser: Browser, file: Path, **options: Any) -> None:
        self.wrong: list[str] = []
        self.page: Page = browser.new_page(**{"viewport": {"width": 1100, "height": 760}} | options)
        self.page.on("console", lambda said: self.wrong.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda asked: self.asked(asked.url))
        self.page.goto(file.as_uri())
        self.ask("hier.frames()")

    def asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.wrong.append(f"asked for {url}")

    def ask(self, expression: str, given: Any = None) -> Any:
        return self.page.evaluate(expression, given)

    def settle(self) -> dict[str, Any]:
        for _ in range(500):
            self.ask("hier.frames()")
            if not self.ask("hier.state()")["flying"]:
                break
        state: dict[str, Any] = self.ask("hier.state()")
        return state


@pytest.fixture(scope="module")
def tree(index: Path, hier: Hier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "tree.html"
    done = hier("hierarchy", "--index", index, "--format", "html", "-o", file)
    assert done.returncode == 0, done.stderr.decode()
    return file


def facts(file: Path) -> dict[str, Any]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>',
                         file.read_text(), re.DOTALL)  # fmt: skip
    read: dict[str, Any] = json.loads(data)
    return read


def node_called(file: Path, name: str) -> int:
    places = facts(file)["places"]
    return next(n for n, own in enumerate(places["name"]) if own == name and places["kind"][n] == 0)


def test_a_page_is_whole_and_names_no_place_of_this_machine(tree: Path, photos: Path) -> None:
    text = tree.read_text()
    assert str(photos) not in text
    assert "http://" not in text and "https://" not in text
    places = facts(tree)["places"]
    assert sum(kind == 2 for kind in places["kind"]) == 48
    assert sum(kind == 2 and picture >= 0 for kind, picture
               in zip(places["kind"], places["picture"], strict=True)) == 48  # fmt: skip
    assert {"kind3/photo0.jpg", "kind3"} <= set(places["name"])


def test_it_opens_without_a_word(browser: Browser, tree: Path) -> None:
    shown = Shown(browser, tree)
    state = shown.settle()
    assert shown.wrong == []
    assert state["chosen"] == 0
    assert state["seen"] == len(facts(tree)["places"]["kind"])
    assert shown.page.inner_text("#panel h2") == facts(tree)["places"]["name"][0]


def test_a_click_brings_a_node_to_the_middle(browser: Browser, tree: Path) -> None:
    shown = Shown(browser, tree)
    node = node_called(tree, "kind3")
    before = shown.ask(f"hier.where({node})")
    box = shown.page.locator("#disk").bounding_box()
    assert box is not None
    middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    assert abs(before[0] - middle[0]) + abs(before[1] - middle[1]) > 50
    shown.page.mouse.click(*before)
    state = shown.settle()
    assert shown.ask(f"hier.where({node})") == pytest.approx(middle, abs=1)
    assert (state["chosen"], state["name"]) == (node, "kind3")
    assert "kind3" in shown.page.inner_text("#panel h2")
    assert shown.page.locator("#panel .photos button").count() == 6
    assert shown.wrong == []


def test_search_finds_a_label(browser: Browser, tree: Path) -> None:
    shown = Shown(browser, tree)
    shown.page.keyboard.press("/")
    shown.page.keyboard.type("KIND5")
    assert shown.page.locator("#found li").first.inner_text().startswith("kind5")
    shown.page.keyboard.press("Enter")
    assert shown.settle()["name"] == "kind5"
    shown.page.keyboard.press("/")
    shown.page.keyboard.type("kind5/photo1.jpg")
    shown.page.keyboard.press("Enter")
    assert shown.settle()["name"] == "kind5/photo1.jpg", "typed over what was there"
    shown.page.fill("#query", "no such thing")
    assert "nothing" in shown.page.inner_text("#found")
    assert shown.wrong == []


def test_dragging_and_coming_nearer_are_motions_of_the_disk(browser: Browser, tree: Path) -> None:
    shown = Shown(browser, tree)
    start = shown.ask("hier.state()")["at"]
    box = shown.page.locator("#disk").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    shown.page.mouse.move(x + 5, y + 30)
    shown.page.mouse.down()
    shown.page.mouse.move(x + 105, y + 90, steps=8)
    shown.page.mouse.up()
    moved = shown.settle()["at"]
    assert moved[0] > start[0] + 0.1 and moved[1] < start[1] - 0.05
    shown.page.mouse.wheel(0, -300)
    shown.ask("hier.frames()")
    assert shown.ask("hier.state()")["at"] != moved
    shown.page.locator("#home").click()
    assert shown.settle()["at"] == pytest.approx([0, 0], abs=1e-6)
    assert shown.wrong == []


def test_two_fingers_come_nearer(browser: Browser, tree: Path) -> None:
    shown = Shown(browser, tree, has_touch=True)
    node = node_called(tree, "kind3")
    x, y = shown.ask(f"hier.where({node})")
    before = shown.ask("hier.state()")["at"]
    disk = shown.ask("(box => [box.left + box.width / 2, box.top + box.height / 2])"
                     "(document.getElementById('disk').getBoundingClientRect())")  # fmt: skip
    shown.ask(
        """async ([x, y]) => {
          const disk = document.getElementById("disk");
          disk.setPointerCapture = () => {};
          const send = (kind, id, dx) => disk.dispatchEvent(new PointerEvent(
            kind, { pointerId: id, clientX: x + dx, clientY: y, pointerType: "touch" }));
          send("pointerdown", 1, 0); send("pointerdown", 2, 20);
          for (let dx = 24; dx < 80; dx += 4) send("pointermove", 2, dx);
          send("pointerup", 2, 80); send("pointerup", 1, 0);
        }""",
        [x, y],
    )
    shown.settle()
    assert shown.ask("hier.state()")["at"] != before, "the root has left the middle"
    u, v = shown.ask(f"hier.where({node})")
    assert math.dist((u, v), disk) < 0.8 * math.dist((x, y), disk), "and the node came nearer"
    assert shown.wrong == []


def test_arrows_walk_along_the_tree(browser: Browser, tree: Path) -> None:
    shown = Shown(browser, tree)
    shown.page.locator("#disk").focus()
    seen = [0]
    for key in ("ArrowDown", "ArrowRight", "ArrowUp", "ArrowDown", "Home"):
        shown.page.keyboard.press(key)
        seen.append(shown.settle()["chosen"])
    assert seen[0] == seen[3] == seen[5] == 0
    assert seen[1] == seen[4] != seen[2] != 0
    while shown.ask("hier.state()")["name"] not in {f"kind{n}" for n in range(8)}:
        shown.page.keyboard.press("ArrowDown")
        shown.settle()
    shown.page.keyboard.press("ArrowDown")
    assert shown.settle()["name"].endswith(".jpg"), "below a class come its photos"
    assert shown.page.inner_text("#told").startswith("photo ")
    assert shown.wrong == []


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_a_tree_of_two_hundred_levels_can_be_walked(
    browser: Browser, tmp_path: Path, motion: Any
) -> None:
    node = Node("c0", "c0", None, 1.0, 0.0)
    for depth in range(200):
        leaf = Node(f"c{depth + 1}", f"c{depth + 1}", None, 1.0, 0.0)
        node = Node(f"p{depth}", f"join {depth}", depth, 0.0, depth + 1.0, depth + 2,
                    children=(node, leaf))  # fmt: skip
    disk.write(tmp_path / "deep.html", node, {}, "deep")
    shown = Shown(browser, tmp_path / "deep.html", reduced_motion=motion)
    for name in ("c0", "c200", "join 100"):
        shown.ask(f"hier.choose({node_called(tmp_path / 'deep.html', name)})")
        state = shown.settle()
        assert state["at"] == pytest.approx([0, 0], abs=1e-6)
        assert state["seen"] > 10
    shown.page.mouse.move(300, 300)
    for _ in range(5):
        shown.page.mouse.wheel(0, 400)
        shown.ask("hier.frames()")
    assert all(math.isfinite(value) for value in shown.ask("hier.state()")["at"])
    assert shown.ask("hier.state()")["seen"] > 10
    assert shown.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_the_dark(browser: Browser, tree: Path, scheme: Any) -> None:
    """Words and paper differ by 7 to 1 at least in luminance, as WCAG asks at its highest level."""
    shown = Shown(browser, tree, color_scheme=scheme)

    def luminance(expression: str) -> float:
        colour = shown.ask(f"getComputedStyle(document.querySelector('aside')).{expression}")
        found = re.findall(r"[\d.]+", colour)
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                  for c in (int(value) / 255 for value in found[:3])]  # fmt: skip
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    paper = luminance("backgroundColor")
    ink = luminance("color")
    assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) > 7
    assert (paper > 0.5) == (scheme == "light")
    shown.page.locator("#theme").click()
    assert shown.ask("document.documentElement.dataset.theme") != scheme
    shown.page.select_option("#colouring", "depth")
    assert "depth" in shown.page.inner_text("#legend")
    assert shown.wrong == []


def test_what_is_drawn_changes_with_the_view(browser: Browser, tree: Path, tmp_path: Path) -> None:
    """Near a class its photos are pictures: more colours than dots have."""
    from PIL import Image

    shown = Shown(browser, tree)
    colours = []
    for name in ("start", "near"):
        file = tmp_path / f"{name}.png"
        shown.page.locator("#disk").screenshot(path=file)
        with Image.open(file) as picture:
            found = picture.convert("RGB").getcolors(1 << 24)
        assert found is not None
        colours.append(len(found))
        shown.ask(f"hier.choose({node_called(tree, 'kind3')})")
        shown.settle()
    assert colours[1] > colours[0] > 100


def test_two_trees_face_to_face(browser: Browser, index: Path, hier: Hier, tmp_path: Path) -> None:
    other, file = tmp_path / "other.nwk", tmp_path / "diff.html"
    hier("hierarchy", "--index", index, "--format", "newick", "-o", other)
    other.write_text(other.read_text().replace("kind3", "<i>kind</i>"))
    done = hier("hierarchy", "diff", index, other, "--html", file)
    assert done.returncode == 0, done.stderr.decode()
    wrong: list[str] = []
    page = browser.new_page()
    page.on("console", lambda said: wrong.append(said.text))
    page.goto(file.as_uri())
    assert page.locator("svg line").count() == 7, "a line for each class that both have"
    assert sorted(page.locator("svg text.alone").all_text_contents()) == ["<i>kind</i>", "kind3"]
    assert wrong == []


# -- the review page ------------------------------------------------------------------------------


@pytest.fixture
def review_page(photos: Path, tmp_path: Path) -> Path:
    files = sorted(photos.rglob("*.jpg"))
    labels = [file.parent.name for file in files]
    rng = np.random.default_rng(0)
    points = (0.2 * rng.normal(size=(len(files), 8))).astype(np.float32)
    collection = Collection(points, [str(file) for file in files], labels, c=0.1)
    found = [
        Finding("relabel", str(files[0]), "kind0", "kind1", "", 0.8, reason="its nearest disagree"),
        Finding("relabel", str(files[1]), "kind0", 'kind "2", or so', "", 0.7),
        Finding("merge", str(files[2]), "kind0", "kind3", "", 0.6),
        Finding("duplicate", str(files[3]), "kind0", "", str(files[4]), 0.95),
        Finding("blurred", str(files[5]), "kind0", reason="its edges are soft"),
        Finding("unreadable", str(photos / "gone.jpg"), reason="it is <damaged>"),
    ]
    page = tmp_path / "review.html"
    missing = review_pages.write(page, Review(found, collection), "Review of <birds>")
    assert missing == [str(photos / "gone.jpg")]
    return page


def opened(browser: Browser, file: Path, **options: Any) -> tuple[Page, list[str]]:
    wrong: list[str] = []
    page = browser.new_page(**{"viewport": {"width": 1100, "height": 760}} | options)
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url)
            if not asked.url.startswith(("file:", "data:", "blob:")) else None)  # fmt: skip
    page.goto(file.as_uri())
    return page, wrong


def test_a_review_is_worked_through_by_keyboard(
    browser: Browser, review_page: Path, tmp_path: Path
) -> None:
    page, wrong = opened(browser, review_page)
    assert page.title() == "Review of <birds>"
    assert page.inner_text("main h2") == "kind0, or kind1?"
    assert page.locator("main img").count() >= 10
    page.keyboard.press("a")
    page.keyboard.press("l")
    page.keyboard.type("a, new kind")
    page.keyboard.press("Enter")
    page.keyboard.press("a")  # two classes are one
    page.keyboard.press("x")  # has no effect on a copy: to accept it is to leave it out
    page.keyboard.press("a")
    page.keyboard.press("r")
    page.keyboard.press("u")
    assert page.inner_text("#count") == "4 of 6 decided"
    page.keyboard.press("r")
    assert page.inner_text("main h2") == "Cannot be read"
    assert "it is <damaged>" in page.inner_text("main").replace("It", "it")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("main .state") == "Kept as it is"
    page.keyboard.press("2")
    assert page.evaluate("hier.state().kind") == "merge"
    with page.expect_download() as waiting:
        page.keyboard.press("s")
    saved = tmp_path / "saved.csv"
    waiting.value.save_as(saved)
    decisions = Corrections.read(saved)
    assert sorted(decisions.labels.values()) == ["a, new kind", "kind1"]
    assert decisions.renamed == {"kind0": "kind3"}
    assert len(decisions.excluded) == 1
    # What was decided is there when the page is opened again.
    page.reload()
    assert page.inner_text("#count") == "5 of 6 decided"
    assert wrong == []
    page.close()


@pytest.mark.parametrize("width", [360, 1100, 3840])
def test_a_review_fits_every_width(browser: Browser, review_page: Path, width: int) -> None:
    page, wrong = opened(browser, review_page, viewport={"width": width, "height": 800})
    for _ in range(6):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.keyboard.press("ArrowRight")
    names = page.eval_on_selector_all("button", "all => all.map(b => b.innerText || b.ariaLabel)")
    assert all(names)
    assert wrong == []
    page.close()


def test_a_review_page_shows_some_of_each_kind(photos: Path, tmp_path: Path) -> None:
    points = np.zeros((1, 4), np.float32)
    found = [Finding("relabel", f"/gone/{n}.jpg", "a", "b", "", 0.5) for n in range(2000)]
    found += [Finding("tiny", f"/gone/small{n}.jpg") for n in range(10)]
    review_pages.write(tmp_path / "r.html", Review(found, Collection(points, c=0.1)), "R")
    text = (tmp_path / "r.html").read_text()
    assert text.count('"kind":"tiny"') == 10
    assert text.count('"kind":"relabel"') == review_pages.MOST - 10
    assert f"{2010 - review_pages.MOST:,} further findings" in text
