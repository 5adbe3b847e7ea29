"""A headless Chromium for the tests of the report; without one they are skipped, but fail in CI."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright


def chromium() -> str:
    """The browser of the system."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("PPLUG_TEST_BROWSER") == "required":
            pytest.fail("no chromium: .ci/run installs it")
        pytest.skip("no chromium")
    return found


@contextmanager
def opened(file: Path, width: int = 1280, **context: Any) -> Iterator[tuple[Page, list[str]]]:
    """The page of a file, all charts drawn, and what the browser complained of."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": width, "height": 900}, offline=True, **context)
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(file.as_uri())
            page.wait_for_function("document.body.dataset.drawn !== undefined", timeout=60_000)
            yield page, said
        finally:
            browser.close()
