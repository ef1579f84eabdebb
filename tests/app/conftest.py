"""Debian's Chromium, driven by Playwright, and the page that it opens."""

import shutil

import pytest


@pytest.fixture(scope="session")
def browser():
    """A browser that may play sound without being asked; skips without one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=executable, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open an address on a page of its own; errors of scripts and requests to elsewhere fail the test."""
    contexts, problems = [], []

    def watch(page, address):
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((address, "data:", "blob:")) else problems.append(request.url)
            ),
        )

    def open(address, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        watch(page, address)
        page.goto(address)
        return page

    yield open
    for context in contexts:
        context.close()
    assert not problems
