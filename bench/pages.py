"""How quickly the study page opens and refreshes with 10,000 trials of 5 objectives.

    python bench/pages.py [--out bench/results/pages.json] [--trials 10000]

A running study is made in an embedded Postgres of its own. The page is run by Streamlit's test
driver, which counts what the server does, and then by a real server and a headless Chromium, from
the click in the list of studies until the front is drawn. A refresh follows when one more trial was
told. Wall clocks mean little on a busy machine: CPU seconds of the server's process stand beside.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median

import large_study
from playwright.sync_api import CDPSession, Page, sync_playwright
from rows import Rows
from streamlit.testing.v1 import AppTest

from services.cli.context import open_database
from services.cli.stack import ui_command
from services.db import Database
from services.embedded import stop
from services.settings import settings

APP = Path(__file__).resolve().parents[1] / "ui" / "app.py"
BROWSERS = (os.environ.get("REMELT_CHROMIUM", ""), "/usr/bin/chromium", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update"]  # fmt: skip
REPEATS = 5
NAME = "as-large-as-it-gets"
#: goals, in seconds
OPENED, REFRESHED = 2.0, 0.3
DRAWN = ".st-key-front-{study} .js-plotly-plot .scatterlayer .points path"
#: keeps when the app's script began and ended, and when the plot was drawn last
WATCH = """study => {
    const app = document.querySelector('[data-testid=stApp]');
    const plot = document.querySelector(`.st-key-front-${study}`);
    const seen = window.seen = {runs: [], drawn: 0};
    const look = () => seen.runs.push([app.dataset.testScriptState, performance.now()]);
    new MutationObserver(look).observe(app, {attributeFilter: ['data-test-script-state']});
    const drawn = () => { seen.drawn = performance.now(); };
    new MutationObserver(drawn).observe(plot, {childList: true, subtree: true, attributes: true});
}"""


def main() -> None:
    """Measure, print the rows and write them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--trials", type=int, default=10_000)
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="remelt-bench-"))
    os.environ["REMELT_HOME"] = str(home)
    settings.cache_clear()
    rows = Rows("pages", threads=1)
    try:
        database = open_database()
        large_study.register(database, home)
        small = large_study.make(database, 100, spare=10)
        made = large_study.make(database, options.trials, spare=200)
        with database.transaction() as connection:
            connection.execute("ANALYZE")
        with_the_test_driver(rows, database, made)
        with server(home) as (address, pid):
            in_a_browser(rows, database, small, made, address, pid)
        database.close()
    finally:
        stop(home)
        shutil.rmtree(home, ignore_errors=True)
    rows.write(options.out)


def with_the_test_driver(rows: Rows, database: Database, made: large_study.Made) -> None:
    """The page's script alone: everything that it reads, computes and sends."""
    app = AppTest.from_file(str(APP), default_timeout=300).run()
    app.switch_page("views/study.py")
    app.query_params["study"] = str(made.study)
    wall, cpu = timed(app.run)
    assert not app.exception
    rows.add("script, first run with nothing kept", wall, "s")
    rows.add("script, first run, CPU", cpu, "s")
    found = []
    for _ in range(REPEATS):
        large_study.tell_one(database, made.study)
        found.append(timed(app.run))
        assert not app.exception
    rows.add("script, a refresh", median(f[0] for f in found), "s")
    rows.add("script, a refresh, CPU", median(f[1] for f in found), "s", at_most=REFRESHED)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of this process's CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_a_browser(
    rows: Rows,
    database: Database,
    small: large_study.Made,
    made: large_study.Made,
    address: str,
    pid: int,
) -> None:
    """From the address to the drawn front, then refreshes of a page that is open."""
    path = next(found for name in BROWSERS if name and (found := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.set_default_timeout(120_000)
        # first a small study: the server imports its modules, the browser fetches the plots' code
        page.goto(address)
        visit_list(page)
        wall, cpu, own = opened(page, small.study, pid)
        rows.add("browser, first page of a new server, 100 trials", wall, "s")
        rows.add("browser, first page, CPU of server and page", cpu + own, "s")
        visit_list(page)
        wall, cpu, own = opened(page, made.study, pid)
        rows.add("browser, click to drawn front, nothing kept", wall, "s", at_most=OPENED)
        rows.add("browser, nothing kept, CPU of server and page", cpu + own, "s", at_most=OPENED)
        settle(page)
        again = []
        for _ in range(REPEATS):
            visit_list(page)
            again.append(opened(page, made.study, pid))
            settle(page)
        rows.add("browser, click to drawn front", median(a[0] for a in again), "s", at_most=OPENED)
        rows.add("browser, CPU of the server until then", median(a[1] for a in again), "s")
        rows.add("browser, CPU of the page until then", median(a[2] for a in again), "s")
        found = [refreshed(page, database, made.study, pid) for _ in range(REPEATS)]
        rows.add("browser, a refresh until drawn", median(f[0] for f in found), "s",
                 at_most=REFRESHED)  # fmt: skip
        rows.add("browser, a refresh, CPU of the server", median(f[1] for f in found), "s")
        rows.add("browser, a refresh, CPU of the page", median(f[2] for f in found), "s")
        browser.close()


def visit_list(page: Page) -> None:
    """The list of studies, at rest; the page's code stays loaded, as it does for a reader."""
    page.get_by_role("link", name="Studies").first.click()
    page.get_by_role("link", name=NAME).first.wait_for()
    settle(page)


def opened(page: Page, study: int, pid: int) -> tuple[float, float, float]:
    """Seconds from the click in the list until the front is drawn, and the CPU that the server and
    the page's main thread took until then."""
    wall, cpu, own = time.perf_counter(), cpu_seconds(pid), page_seconds(page)
    page.get_by_role("link", name=f"#{study} {NAME}").click()
    page.locator(DRAWN.format(study=study)).first.wait_for()
    return (
        time.perf_counter() - wall,
        cpu_seconds(pid) - cpu,
        page_seconds(page) - own,
    )


def refreshed(page: Page, database: Database, study: int, pid: int) -> tuple[float, float, float]:
    """Seconds from the beginning of the script's run until the front was drawn anew, and the CPU
    that the server and the page took until all was at rest."""
    page.evaluate(WATCH, study)
    cpu, own = cpu_seconds(pid), page_seconds(page)
    large_study.tell_one(database, study)
    page.wait_for_function("window.seen.drawn > 0")
    settle(page)
    seen = page.evaluate("window.seen")
    began = max(at for state, at in seen["runs"] if state == "running" and at < seen["drawn"])
    return (
        (seen["drawn"] - began) / 1000,
        cpu_seconds(pid) - cpu,
        page_seconds(page) - own,
    )


@cache
def counters(page: Page) -> CDPSession:
    """Chromium's own counters; they begin anew with every session."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    return session


def page_seconds(page: Page) -> float:
    """CPU of the page's main thread so far."""
    found = counters(page).send("Performance.getMetrics")["metrics"]
    return float(next(m["value"] for m in found if m["name"] == "TaskDuration"))


def settle(page: Page) -> None:
    """Wait until the script has ended."""
    page.wait_for_timeout(300)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_load_state("networkidle")


@contextmanager
def server(home: Path) -> Iterator[tuple[str, int]]:
    """The dashboard's address and process, as `remelt ui` starts it."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    with (home / "ui.log").open("wb") as log:
        process = subprocess.Popen(ui_command("127.0.0.1", port), stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{base}/_stcore/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield base, process.pid
    finally:
        process.terminate()
        process.wait(10)


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    parts = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
