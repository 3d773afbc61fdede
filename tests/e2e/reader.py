"""A reader at a workstation: Chromium on OHIF, and what is seen in its viewports.

By hand, for a gateway that runs (this is how docs/images/ohif.png is made):

    python tests/e2e/reader.py GATEWAY_URL STUDY_UID SCREENSHOT.png
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

ROOT = Path(__file__).parents[2]
VIEWER = ROOT / ".cache" / "ohif" / "dist"
ARTIFACTS = ROOT / "tests" / "artifacts"

FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Without a GPU the viewports are drawn by SwiftShader.
    "--enable-unsafe-swiftshader",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--ignore-gpu-blocklist",
)
# The viewer's own texts and frames are coloured too.
_ONLY_IMAGES = (
    "* { visibility: hidden !important } "
    "canvas, .svg-layer, .svg-layer * { visibility: visible !important }"  # contours are in an SVG over the image
)
_BASE64_OF = """async url => {
    const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());
    return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(''));
}"""
_OF_THE_BROWSER = ("chrome://", "chrome-extension://")  # its PDF viewer
_SLOWEST_S = 90.0  # two busy cores and no GPU


def chromium() -> str | None:
    """The browser of the distribution. Ubuntu's package without the snap is a script that only asks for it."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path and _answers(path)), None)


def _answers(program: str) -> bool:
    return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0


def require_viewer() -> Path:
    """OHIF's built files. Skips, or with ISOCENTER_REQUIRE_TEST_DATA=1 fails, without them or without a browser."""
    for missing, how in (
        (not (VIEWER / "index.html").exists(), "OHIF is not fetched: make ohif"),
        (chromium() is None, "no Chromium: apt-get install chromium"),
    ):
        if missing and os.environ.get("ISOCENTER_REQUIRE_TEST_DATA") == "1":
            pytest.fail(how)
        if missing:
            pytest.skip(how)
    return VIEWER


@dataclass(frozen=True)
class Viewport:
    """One viewport of OHIF: `pixels`: RGB (rows, columns, 3) of its canvas; `text`: what is written over it."""

    pixels: NDArray[np.uint8]
    text: str

    @property
    def instance_number(self) -> int | None:
        """Instance Number of the image that is shown."""
        found = re.search(r"I:\s*(\d+)", self.text)
        return int(found[1]) if found else None


T = TypeVar("T")


class Reader:
    """A browser with one study open. `elsewhere` gathers requests that left the gateway's origin."""

    def __init__(self, page: Page, origin: str) -> None:
        self._page = page
        self.origin = origin
        self.elsewhere: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self._note(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, url: str) -> None:
        if not url.startswith((f"{self.origin}/", "data:", "blob:", *_OF_THE_BROWSER)):
            self.elsewhere.append(url)

    def open(self, study_uid: str) -> None:
        self._page.goto(f"{self.origin}/viewer?StudyInstanceUIDs={study_uid}")

    def open_page(self, path: str) -> str:
        """Open one of the gateway's own pages and give its text."""
        self._page.goto(f"{self.origin}{path}")
        return self._page.locator("body").inner_text()

    def choose(self, series_number: int) -> None:
        """Put a series that has no picture in the list of series into the active viewport."""
        listed = self._page.locator('[data-cy="study-browser-thumbnail-no-image"]')
        listed.filter(has_text=f"S:{series_number}").dblclick()

    def choose_images(self, series_number: int, *, slices_on: int = 0) -> None:
        """Put a series of images into the active viewport, and go so many slices on from its first."""
        listed = self._page.locator('[data-cy="study-browser-thumbnail"]')
        listed.filter(has_text=f"S:{series_number}").dblclick()
        self.wait_for(lambda seen: any("I:" in each.text for each in seen), "the first image")
        for _ in range(slices_on):
            self._page.keyboard.press("ArrowDown")

    def series(self) -> list[str]:
        """What the list says of each series: modality, description, number and how many images."""
        return self._page.locator('[data-cy^="study-browser-thumbnail"]').all_inner_texts()

    def document(self) -> bytes:
        """The bytes of the PDF that a viewport shows."""
        shown = self._page.locator('[data-cy="viewport-pane"] object').get_attribute(
            "data", timeout=_SLOWEST_S * 1000
        )
        encoded: str = self._page.evaluate(_BASE64_OF, shown)
        return base64.b64decode(encoded)

    def pane(self, index: int) -> NDArray[np.uint8]:
        """All that is seen in a viewport, counted from the left, at this moment: RGB (rows, columns, 3)."""
        self._page.mouse.move(0, 0)
        shown = self._page.locator('[data-cy="viewport-pane"]').nth(index).screenshot()
        return np.asarray(Image.open(io.BytesIO(shown)).convert("RGB"))

    def wait_for_pane(
        self, index: int, condition: Callable[[NDArray[np.uint8]], bool], what: str
    ) -> NDArray[np.uint8]:
        """As `wait_for`, of what is no canvas."""
        return self._steady(lambda: self.pane(index), condition, np.array_equal, what)

    def viewports(self) -> list[Viewport]:
        """What the viewports show at this moment, from left to right."""
        elements = self._page.locator('[data-cy="viewport-pane"]').all()
        return [_seen(element) for element in elements]

    def wait_for(self, condition: Callable[[list[Viewport]], bool], what: str) -> list[Viewport]:
        """Look until the condition holds for what is seen twice in a row. Fails the test when it never does."""
        return self._steady(self.viewports, condition, _same, what)

    def _steady(
        self, look: Callable[[], T], condition: Callable[[T], bool], same: Callable[[T, T], bool], what: str
    ) -> T:
        give_up = time.monotonic() + _SLOWEST_S
        before = look()
        while time.monotonic() < give_up:
            self._page.wait_for_timeout(250)
            now = look()
            if condition(now) and same(before, now):
                return now
            before = now
        raise AssertionError(f"after {_SLOWEST_S:.0f} s the viewer does not show {what}; {self.complaints}")

    def screenshot(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._page.mouse.move(0, 0)
        self._page.screenshot(path=file)


def _seen(element: Locator) -> Viewport:
    canvas = element.locator("canvas")
    box = canvas.first.bounding_box() if canvas.count() else None
    if box is None:
        return Viewport(np.zeros((1, 1, 3), np.uint8), element.inner_text())
    shown = element.page.screenshot(
        clip={"x": box["x"], "y": box["y"], "width": box["width"], "height": box["height"]},
        style=_ONLY_IMAGES,
    )
    return Viewport(np.asarray(Image.open(io.BytesIO(shown)).convert("RGB")), element.inner_text())


def _same(before: list[Viewport], now: list[Viewport]) -> bool:
    return len(before) == len(now) and all(
        one.text == other.text and np.array_equal(one.pixels, other.pixels)
        for one, other in zip(before, now, strict=True)
    )


@contextmanager
def reader(origin: str, width: int = 1400, height: int = 800) -> Iterator[Reader]:
    """A new browser with an empty profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield Reader(browser.new_page(viewport={"width": width, "height": height}), origin)
        finally:
            browser.close()


def coloured(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a picture is not grey."""
    spread: NDArray[np.int16] = np.ptp(pixels.astype(np.int16), axis=-1)
    return spread > 24


def main() -> None:
    origin, study_uid, file = sys.argv[1:]
    with reader(origin.rstrip("/")) as browser:
        browser.open(study_uid)
        browser.wait_for(
            lambda seen: bool(seen) and coloured(seen[0].pixels).mean() > 0.02, "a coloured overlay"
        )
        browser.screenshot(Path(file))


if __name__ == "__main__":
    main()
