"""Draw the pictures of README from the demo's own images: a terminal, the tree, the server.

Run it in a folder that holds data/demo, flowers.faiss and tree.html, as README makes them:

    python docs/draw.py TARGET_FOLDER

It needs Playwright's Chromium, or one whose path is in CHROMIUM.
"""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

QUERY = "data/demo/photos/Brasostia_vinanthescens/Brasostia_vinanthescens_005.jpg"
SEARCH = ["hier", "search", QUERY, "--index", "flowers.faiss", "-k", "3"]


def terminal(words: list[str]) -> str:
    """What a command prints to a terminal of 108 columns."""
    parent, child = pty.openpty()
    environment = os.environ | {"COLUMNS": "108", "LINES": "60", "TERM": "xterm-256color",
                                "COLORTERM": "truecolor"}  # fmt: skip
    import fcntl
    import struct
    import termios

    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 108, 0, 0))
    running = subprocess.Popen(
        [*words, "--thumbnails", "blocks"], stdin=child, stdout=child, stderr=subprocess.DEVNULL,
        env=environment,
    )  # fmt: skip
    os.close(child)
    said = b""
    while True:
        try:
            some = os.read(parent, 65536)
        except OSError:
            break
        if not some:
            break
        said += some
    running.wait()
    asked = r"\x1b\[c|\x1b_G.*?\x1b\\|\x1b\[16t"  # what it asks of the terminal
    return re.sub(asked, "", said.decode()).replace("\r", "")


def main(target: Path) -> None:
    """Write search.png, tree.png and serve.png."""
    console = Console(record=True, width=108, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(Text(f"$ {' '.join(SEARCH)}"))
    console.print(Text.from_ansi(terminal(SEARCH)))
    svg = console.export_svg(title="hier search")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=os.environ.get("CHROMIUM"))
        page = browser.new_page(viewport={"width": 1240, "height": 900}, device_scale_factor=1)
        page.set_content(f"<body style='margin:0'>{svg}</body>")
        page.locator("svg").first.screenshot(path=str(target / "search.png"))
        page.set_viewport_size({"width": 1100, "height": 760})
        page.goto(Path("tree.html").resolve().as_uri())
        page.wait_for_timeout(1500)
        page.screenshot(path=str(target / "tree.png"))
        words = ["hier", "serve", "--index", "flowers.faiss", "--port", "0", "--json"]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        page.set_viewport_size({"width": 1200, "height": 640})
        page.goto(json.loads(server.stdout.readline())["url"])
        page.set_input_files("#file", QUERY)
        page.wait_for_timeout(3000)
        page.screenshot(path=str(target / "serve.png"))
        server.terminate()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
