"""Chromium without a screen, which reaches this host's loopback and nothing else.

    with chromium() as browser:
        browser.get(url)

One takes a second to start: a test file shares one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

WAIT_S = 10.0
POLL_S = 0.02
BINARY, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-extensions", "--no-first-run", "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1280,900",
)  # fmt: skip
"""`--no-sandbox`, since tests run as root; what is shown to it is the tests' own."""


class Browser:
    """A driven Chromium."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def get(self, url: str) -> None:
        self.driver.get(url)

    def wait(self, condition: Callable[[Any], Any], timeout_s: float = WAIT_S) -> Any:
        """Wait until `condition` gives something of the driver."""
        # What was found may be gone when it is looked at: another page came.
        going = (StaleElementReferenceException,)
        waiting = WebDriverWait(self.driver, timeout_s, POLL_S, ignored_exceptions=going)
        return waiting.until(condition)

    def text(self, selector: str = "body") -> str:
        """Give what is read of an element."""
        return str(self.driver.find_element(By.CSS_SELECTOR, selector).get_property("innerText"))

    def content(self, selector: str = "body") -> str:
        """Give all text of an element, as it stands in the page."""
        return str(self.driver.find_element(By.CSS_SELECTOR, selector).get_property("textContent"))

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def shot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        self.driver.set_window_size(1280, 400)
        height = int(self.run("return document.documentElement.scrollHeight"))
        self.driver.set_window_size(1280, min(4000, max(600, height + 140)))
        self.driver.save_screenshot(str(path))

    def problems(self) -> list[str]:
        """Give what the browser itself complains of: blocked by a policy, or an error of a script,
        since this was asked last."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]


@contextlib.contextmanager
def chromium(folder: Path, *arguments: str) -> Iterator[Browser]:
    """Run one; its files are below `folder`."""
    options = webdriver.ChromeOptions()
    options.binary_location = BINARY
    for argument in (*ARGUMENTS, f"--user-data-dir={folder}", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(WAIT_S)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
