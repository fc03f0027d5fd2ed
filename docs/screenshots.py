"""Take the dashboard's pictures in `docs/img/` from a running dashboard and a real study.

    python docs/screenshots.py http://127.0.0.1:8501 STUDY [docs/img]

Every page at 1440×900, in headless Chromium; nothing is clicked that would change the study or
read its sealed split.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIZE = {"width": 1440, "height": 900}
WAIT_MS = 60_000


def browser_path() -> str:
    """The first browser of $REMELT_CHROMIUM and `BROWSERS` that is there."""
    for name in (os.environ.get("REMELT_CHROMIUM", ""), *BROWSERS):
        if name and (found := shutil.which(name)):
            return found
    raise SystemExit("no Chromium: set REMELT_CHROMIUM, or apt-get install chromium")


def settle(page: Page) -> None:
    """Wait until Streamlit has drawn everything and plots have stopped moving."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_load_state("networkidle")
    # plots and grids are loaded when they are first needed
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')")
    page.wait_for_timeout(1500)


def pages(study: int, trial: int) -> dict[str, str]:
    """Picture -> address."""
    return {
        "studies": "",
        "new-study": "new",
        "study": f"study?study={study}",
        "candidate": f"candidate?study={study}&trial={trial}",
        "compare": f"compare?study={study}&trials=0,{trial}",
        "pools": "pools",
        "suites": "suites",
        "workers": "workers",
    }


def chosen_trial(page: Page, base: str, study: int) -> int:
    """The trial that the study page's first card names."""
    page.goto(f"{base}/study?study={study}")
    text = page.get_by_text("trial ", exact=False).first
    text.wait_for(timeout=WAIT_MS)
    words = text.inner_text().split()
    return int(words[words.index("trial") + 1])


def main() -> None:
    """Parse arguments and take every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="address of the dashboard")
    parser.add_argument("study", type=int)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "img")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    base = options.base.rstrip("/")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=list(ARGUMENTS))
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(WAIT_MS)
        trial = chosen_trial(page, base, options.study)
        for name, address in pages(options.study, trial).items():
            page.goto(f"{base}/{address}")
            settle(page)
            page.screenshot(path=options.out / f"dashboard-{name}.png")
            scroll_pictures(page, options.out, name)
        browser.close()


def scroll_pictures(page: Page, out: Path, name: str) -> None:
    """What lies below the first screen of the two long pages."""
    if name not in ("study", "candidate"):
        return
    page.set_viewport_size({"width": SIZE["width"], "height": 2400})
    settle(page)
    page.screenshot(path=out / f"dashboard-{name}-whole.png")
    page.set_viewport_size(SIZE)


if __name__ == "__main__":
    main()
