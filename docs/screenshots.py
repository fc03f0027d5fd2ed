"""Take the dashboard's pictures in `docs/img/` from a running dashboard and a real study.

    python docs/screenshots.py http://127.0.0.1:8501 STUDY [docs/img] [--running STUDY]

Every page on a screen (1440×900) and on a telephone (390×844), then parts of the study page, in
headless Chromium. STUDY has finished; the study page of the one that is running is a picture of its
own. Nothing is clicked that would change a study or read its sealed split.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, FloatRect, Locator, Page, sync_playwright

BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
#: what stands in a picture's name before the page -> its size
SIZES = {"dashboard": (1440, 900), "phone": (390, 844)}
#: high enough that the whole study page is drawn at once
TALL = 4200
WAIT_MS = 60_000
MARGIN = 12


def browser_path() -> str:
    """The first browser of $REMELT_CHROMIUM and `BROWSERS` that is there."""
    for name in (os.environ.get("REMELT_CHROMIUM", ""), *BROWSERS):
        if name and (found := shutil.which(name)):
            return found
    raise SystemExit("no Chromium: set REMELT_CHROMIUM, or apt-get install chromium")


def settle(page: Page) -> None:
    """Wait until Streamlit has drawn everything and plots have stopped moving."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    # plots and grids are loaded when they are first needed
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')")
    page.wait_for_timeout(2500)


def pages(study: int, trial: int, running: int | None) -> dict[str, str]:
    """Picture -> address."""
    more = {} if running is None else {"running": f"study?study={running}"}
    return {
        "studies": "",
        "new-study": "new",
        "study": f"study?study={study}",
        "candidate": f"candidate?study={study}&trial={trial}",
        "compare": f"compare?study={study}&trials=0,{trial}",
        "report": f"report?study={study}",
        "pools": "pools",
        "suites": "suites",
        "workers": "workers",
        **more,
    }


def chosen_trial(page: Page, base: str, study: int) -> int:
    """The trial that the study page's first line names."""
    page.goto(f"{base}/study?study={study}")
    text = page.get_by_text("trial ", exact=False).first
    text.wait_for(timeout=WAIT_MS)
    words = text.inner_text().split()
    return int(words[words.index("trial") + 1])


def open_page(browser: Browser, width: int, height: int) -> Page:
    """A tab of that size."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(WAIT_MS)
    return page


def main() -> None:
    """Parse arguments and take every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="address of the dashboard")
    parser.add_argument("study", type=int, help="a finished study")
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "img")
    parser.add_argument("--running", type=int, help="a study that is running")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    base = options.base.rstrip("/")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=list(ARGUMENTS))
        trial = chosen_trial(open_page(browser, *SIZES["dashboard"]), base, options.study)
        for kind, size in SIZES.items():
            page = open_page(browser, *size)
            for name, address in pages(options.study, trial, options.running).items():
                page.goto(f"{base}/{address}")
                settle(page)
                page.screenshot(path=options.out / f"{kind}-{name}.png")
        page = open_page(browser, SIZES["dashboard"][0], TALL)
        parts(page, base, options.study, options.out)
        panels(page, base, options.study, trial, options.out)
        browser.close()


def parts(page: Page, base: str, study: int, out: Path) -> None:
    """Pickers below the plot, candidates within a lasso, parallel coordinates, the form."""
    page.goto(f"{base}/study?study={study}")
    settle(page)
    plot = page.locator(f".st-key-front-{study} .js-plotly-plot")
    few = page.get_by_text("At most this many negative flips")
    cut(page, out / "dashboard-pickers.png", plot, few, below=70)
    lasso(page, plot)
    page.get_by_text("Selected:").wait_for()
    settle(page)
    lines = page.locator(".st-key-parallel .js-plotly-plot")
    label = "[aria-label='Selected trials with their metrics']"
    table = page.locator("[data-testid=stDataFrame]", has=page.locator(label)).first
    cut(page, out / "dashboard-selection.png", plot, table)
    cut(page, out / "dashboard-parallel.png", lines, lines)
    form(page, base, out)


def panels(page: Page, base: str, study: int, trial: int, out: Path) -> None:
    """What stands under a heading of its own: near-best candidates, parents, kinship, health."""
    page.goto(f"{base}/study?study={study}")
    settle(page)
    heading = page.get_by_role("heading", name="Candidates about as good as the best")
    unstable = page.locator("table.flips tr")
    if unstable.count() > 4:  # several candidates, and they disagree
        cut(page, out / "dashboard-near-best.png", heading, unstable.nth(4))
    page.goto(f"{base}/candidate?study={study}&trial={trial}")
    settle(page)
    worth = page.locator("[class*=st-key-worth-] .js-plotly-plot")
    if worth.count():  # its merges were evaluated
        heading = page.get_by_role("heading", name="What each parent is worth")
        cut(page, out / "dashboard-parents.png", heading, worth.last)
    page.goto(f"{base}/pools")
    settle(page)
    kinship = page.locator("[class*=st-key-kinship-plot-] .js-plotly-plot").first
    if kinship.count():  # somebody has measured it
        cut(page, out / "dashboard-kinship.png", kinship, kinship)
    page.goto(f"{base}/suites")
    settle(page)
    heading = page.get_by_role("heading", name="Health of").first
    items = page.get_by_role("heading", name="Items of").first
    cut(page, out / "dashboard-health.png", heading, items, below=-50)


def form(page: Page, base: str, out: Path) -> None:
    """The form that writes the spec."""
    page.goto(f"{base}/new")
    settle(page)
    page.get_by_text("Fill in a form instead").click()
    settle(page)
    expander = page.get_by_test_id("stExpander").first
    cut(page, out / "dashboard-form.png", expander, expander)


def lasso(page: Page, plot: Locator) -> None:
    """Draw one around the upper left of the plot: good candidates that break little."""
    plot.hover()
    plot.locator("[data-attr=dragmode][data-val=lasso]").click()
    area = box(plot.locator(".draglayer .nsewdrag").first)
    corners = ((0.03, 0.03), (0.45, 0.03), (0.5, 0.3), (0.3, 0.62), (0.03, 0.62), (0.03, 0.05))
    for index, (across, down) in enumerate(corners):
        place = area["x"] + across * area["width"], area["y"] + down * area["height"]
        page.mouse.move(*place, steps=6)
        if index == 0:
            page.mouse.down()
    page.mouse.up()


def box(found: Locator) -> FloatRect:
    """Where it stands on the page."""
    place = found.bounding_box()
    assert place is not None
    return place


def cut(page: Page, path: Path, first: Locator, last: Locator, below: float = 0) -> None:
    """The part of the page from the one to the other, as wide as the wider of them."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    a, b = box(first), box(last)
    left, top = min(a["x"], b["x"]) - MARGIN, a["y"] - MARGIN
    right = max(a["x"] + a["width"], b["x"] + b["width"]) + MARGIN
    bottom = b["y"] + b["height"] + below + MARGIN
    clip: FloatRect = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    page.screenshot(path=path, clip=clip)


if __name__ == "__main__":
    main()
