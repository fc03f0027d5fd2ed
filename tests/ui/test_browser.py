"""The dashboard in headless Chromium, as its users meet it: a real server, real clicks."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from services.db import rows
from services.settings import settings
from services.studies import read, sealed
from services.studies.columns import read_columns
from services.studies.looking import knee_of

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60
WAIT_MS = 30_000
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
expect.set_options(timeout=WAIT_MS)
PLOT = "[class*=st-key-front-] .js-plotly-plot"


def find_chromium() -> str | None:
    """The first browser that is there."""
    names = (
        os.environ.get("REMELT_CHROMIUM", ""), "/usr/bin/chromium", "/usr/bin/chromium-browser",
        "google-chrome",
    )  # fmt: skip
    return next((found for name in names if name and (found := shutil.which(name))), None)


def install_chromium() -> None:
    """What CI does when it has none: Debian's own package."""
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium",
         "fonts-dejavu-core"],
    ):  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless browser; skipped with a reason where none can be had, never in CI."""
    path = find_chromium()
    if path is None and os.environ.get("CI") == "true":
        if os.geteuid() == 0:
            install_chromium()
        path = find_chromium()
        if path is None:
            pytest.fail("CI has no Chromium and could not install it")
    if path is None:
        pytest.skip("no Chromium: set REMELT_CHROMIUM, or apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@pytest.fixture
def port() -> int:
    """A free port for the dashboard."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def address(study_with_results: Any, tmp_path: Path, port: int) -> Iterator[str]:
    """Address of a dashboard of its own over the filled database, started as `remelt ui` does."""
    from services.cli.stack import ui_command

    base = f"http://127.0.0.1:{port}"
    with (tmp_path / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            ui_command("127.0.0.1", port),
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )
    try:
        _wait(base, process, tmp_path / "ui.log")
        yield base
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(base: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(START_SECONDS * 5):
        try:
            urllib.request.urlopen(f"{base}/_stcore/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            if process.poll() is not None:
                break
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"the dashboard did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A fresh tab that no script may open a dialog in."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    yield page
    context.close()
    assert dialogs == []


def write_spec(page: Page, old: str, new: str) -> None:
    """Change the spec in the editor and leave the field."""
    editor = page.get_by_role("textbox", name="Spec (YAML)")
    expect(editor).to_have_value(re.compile("name: better-and-quiet"))
    editor.fill(editor.input_value().replace(old, new))
    editor.press("Control+Enter")


def click_front(page: Page) -> None:
    """Click a point of the front in the scatter."""
    expect(page.locator(f"{PLOT} .scatterlayer .points path").first).to_be_visible()
    legend = page.locator(f"{PLOT} .legendtext", has_text="front")
    expect(legend.first).to_be_visible()
    place = page.evaluate(
        """plot => {
            const drawn = document.querySelector(plot);
            const trace = drawn._fullData.find(t => t.name === 'front');
            const area = drawn.querySelector('.draglayer .nsewdrag').getBoundingClientRect();
            const {xaxis, yaxis} = drawn._fullLayout, {x, y} = trace;
            const last = x.length - 1;
            return [area.left + xaxis.d2p(x[last]), area.top + yaxis.d2p(y[last])];
        }""",
        PLOT,
    )
    page.mouse.move(place[0] - 3, place[1] - 3)
    page.mouse.move(*place)
    expect(page.locator(f"{PLOT} .hoverlayer .hovertext")).to_contain_text("negative flips")
    page.mouse.click(*place)


def publish(filled: Any, number: int) -> None:
    """What a worker writes down around casting a candidate of study 3, whose checkpoints are rows
    only."""
    fence = {"worker": "worker-1:42", "lease": 60, "max_attempts": 3}
    with filled.database.transaction() as connection:
        (artefact,) = rows(connection, "artefacts.of_study", study=3)
        assert (artefact["number"], artefact["state"]) == (number, "queued")
        rows(connection, "artefacts.claim", artefact=artefact["id"], **fence)
        rows(connection, "artefacts.published", artefact=artefact["id"], attempt=1,
             digest="d" * 64, weights_digest="e" * 64, bytes=520_192)  # fmt: skip


def test_from_the_form_to_a_published_candidate(
    page: Page, address: str, study_with_results: Any, work_off: Any, tmp_path: Path
) -> None:
    database = study_with_results.database
    page.goto(f"{address}/new")
    page.get_by_text("Fill in a form instead").click()
    page.get_by_label("Name", exact=True).fill("asked-in-the-form")
    page.get_by_label("Candidates", exact=True).fill("12")
    page.get_by_label("Candidates", exact=True).press("Tab")
    page.get_by_role("button", name="Write into the spec").click()
    expect(page.get_by_role("textbox", name="Spec (YAML)")).to_have_value(
        re.compile(r"name: asked-in-the-form\b(.|\n)*trials: 12\b")
    )
    page.get_by_role("button", name="Submit study").click()
    expect(page).to_have_url(re.compile(r"/study\?study=3"))
    work_off(database, 3, 9)
    expect(page.get_by_text("9 of about")).to_be_visible(timeout=10_000)
    work_off(database, 3)
    expect(page.get_by_text("Chosen: trial")).to_be_visible(timeout=10_000)
    page.goto(address)
    page.get_by_role("link", name="#3 asked-in-the-form").click()
    click_front(page)
    expect(page).to_have_url(re.compile(r"/candidate\?study=3&trial=\d+"))
    number = int(page.url.rsplit("trial=", 1)[1].split("&")[0])
    page.get_by_role("radio", name="search").click()
    flips = read.flips(database, read.get_study(database, 3), number)
    prompt = next(f for f in flips if f.kind == "negative").prompt.splitlines()[0]
    expect(page.locator(".flips pre", has_text=prompt).first).to_be_visible()
    expect(page.locator(".flips .kind").first).to_have_text("negative flip")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_text("queued")).to_be_visible()
    publish(study_with_results, number)
    expect(page.get_by_text(f"remelt pull 3/{number} DIR")).to_be_visible(timeout=10_000)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download recipe").first.click()
    waiting.value.save_as(tmp_path / "recipe.yaml")
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert sum(recipe["weights"]) == pytest.approx(1)
    assert waiting.value.suggested_filename == f"study-3-trial-{number}.recipe.yaml"


def test_coming_back_from_a_candidate_does_not_open_it_again(page: Page, address: str) -> None:
    page.goto(f"{address}/study?study=1")
    click_front(page)
    expect(page).to_have_url(re.compile("/candidate"))
    page.get_by_role("link", name="#1 better-and-quiet").click()
    expect(page.get_by_text("Chosen: trial")).to_be_visible()
    expect(page.locator(PLOT)).to_be_visible()
    page.wait_for_timeout(1500)
    expect(page).to_have_url(re.compile(r"/study\?study=1"))


def test_a_bad_spec_gets_its_message_and_a_good_one_a_study(
    page: Page, address: str, study_with_results: Any
) -> None:
    page.goto(f"{address}/new")
    write_spec(page, "margin-surrogate ", "hill-climbing ")
    page.get_by_role("button", name="Submit study").click()
    alert = page.get_by_role("alert").filter(has_text="search.method")
    expect(alert).to_contain_text("Line ")
    assert len(read.list_studies(study_with_results.database)) == 2
    write_spec(page, "hill-climbing ", "random ")
    expect(page.get_by_text("The spec is valid.")).to_be_visible()
    page.get_by_role("button", name="Submit study").click()
    expect(page).to_have_url(re.compile(r"/study\?study=3"))
    expect(page.get_by_text("No results yet")).to_be_visible()
    assert read.study_summary(study_with_results.database, 3)["state"] == "running"


def test_the_page_follows_the_study_by_itself(
    page: Page, address: str, study_with_results: Any, work_off: Any
) -> None:
    page.goto(f"{address}/study?study=2")
    expect(page.get_by_text("11 of about")).to_be_visible()
    work_off(study_with_results.database, 2, 3)
    expect(page.get_by_text("14 of about")).to_be_visible(timeout=10_000)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("This cannot be undone")).to_be_visible()
    page.get_by_role("button", name="Cancel the study").click()
    expect(page.get_by_text("cancelled").first).to_be_visible()
    assert read.study_summary(study_with_results.database, 2)["state"] == "cancelled"


def test_the_test_report_is_opened_on_purpose(
    page: Page, address: str, study_with_results: Any
) -> None:
    before = len(sealed.readings(study_with_results.database, 1))
    page.goto(f"{address}/study?study=1&split=test")
    expect(page.get_by_text("Trials · search split")).to_be_visible()
    assert len(sealed.readings(study_with_results.database, 1)) == before
    page.get_by_role("button", name="Test report").click()
    page.get_by_role("button", name="Open test report (logged)").click()
    expect(page.get_by_text("Trials · test split")).to_be_visible()
    assert len(sealed.readings(study_with_results.database, 1)) == before + 1


def test_a_row_of_the_trial_table_opens_its_candidate(page: Page, address: str) -> None:
    page.goto(f"{address}/study?study=1")
    table = page.locator("[aria-label='Trials with their metrics']").first
    table.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    table.click(position={"x": 35, "y": 52})  # the first row, below the head of 35 pixels
    expect(page).to_have_url(re.compile(r"/candidate\?study=1&trial=0"))


def drag_box(page: Page) -> None:
    """Draw a box around the whole inside of the scatter."""
    expect(page.locator(f"{PLOT} .scatterlayer .points path").first).to_be_visible()
    page.locator(PLOT).hover()
    page.locator(f"{PLOT} [data-attr=dragmode][data-val=select]").click()
    area = page.locator(f"{PLOT} .draglayer .nsewdrag").first.bounding_box()
    assert area is not None
    page.mouse.move(area["x"] + 4, area["y"] + 4)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2, steps=4)
    page.mouse.move(area["x"] + area["width"] - 4, area["y"] + area["height"] - 4, steps=4)
    page.mouse.up()


def test_from_a_filter_and_a_box_to_a_picked_candidate(
    page: Page, address: str, study_with_results: Any
) -> None:
    database = study_with_results.database
    study = read.get_study(database, 1)
    trials = read_columns(database, study, "search")
    page.goto(f"{address}/study?study=1")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("radio", name="front").click()
    shown = int(trials.front.sum())
    expect(page.get_by_text(f"The filter shows {shown} of {len(trials)} trials")).to_be_visible()
    page.keyboard.press("Escape")
    drag_box(page)
    selected = page.get_by_text(re.compile(rf"Selected: {shown} candidate"))
    expect(selected).to_be_visible()
    expect(page.get_by_text("Weights over the selected")).to_be_visible()
    # a click beside the points, and another view and back: the box stays, and what is in it
    area = page.locator(f"{PLOT} .draglayer .nsewdrag").first.bounding_box()
    assert area is not None
    page.mouse.click(area["x"] + 1, area["y"] + 1)
    whole = page.get_by_text("around the front", exact=True).first
    whole.click()
    expect(selected).to_be_hidden()
    whole.click()
    expect(selected).to_be_visible()
    expect(page.locator(f"{PLOT} .selectionlayer path").first).to_be_attached()
    number = knee_of(study, trials)
    page.get_by_role("link", name=f"trial {number}").first.click()
    expect(page).to_have_url(re.compile(rf"/candidate\?study=1&trial={number}$"))


def ranges(page: Page) -> Any:
    """What the scatter's axes show."""
    return page.locator(PLOT).evaluate("p => [p.layout.xaxis.range, p.layout.yaxis.range]")


def test_zoom_and_selection_stay_while_data_come_in(
    page: Page, address: str, study_with_results: Any, work_off: Any
) -> None:
    database = study_with_results.database
    page.goto(f"{address}/study?study=2")
    expect(page.locator(f"{PLOT} .scatterlayer .points path").first).to_be_visible()
    whole = ranges(page)
    area = page.locator(f"{PLOT} .draglayer .nsewdrag").first.bounding_box()
    assert area is not None
    page.mouse.move(area["x"] + 0.1 * area["width"], area["y"] + 0.1 * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + 0.9 * area["width"], area["y"] + 0.9 * area["height"], steps=4)
    page.mouse.up()
    page.wait_for_function(
        "([plot, x]) => document.querySelector(plot).layout.xaxis.range[0] > x",
        arg=[PLOT, whole[0][0]],
    )
    drag_box(page)
    expect(page.get_by_text(re.compile(r"Selected: \d+ candidates"))).to_be_visible()
    zoomed = ranges(page)
    page.locator(PLOT).evaluate("p => { p.kept = p.querySelector('.main-svg'); }")
    for _ in range(2):
        before = page.locator(PLOT).evaluate("p => p.layout.meta.told")
        work_off(database, 2, 6)
        page.wait_for_function(
            "([plot, n]) => document.querySelector(plot).layout.meta.told > n", arg=[PLOT, before]
        )
        assert ranges(page) == zoomed
        expect(page.get_by_text(re.compile(r"Selected: \d+ candidates"))).to_be_visible()
    # the very same drawing: nothing was built anew
    assert page.locator(PLOT).evaluate("p => p.kept === p.querySelector('.main-svg')")
    page.locator(PLOT).hover()
    page.locator(f"{PLOT} [data-title='Reset axes']").click()
    page.wait_for_function(
        "([plot, x]) => document.querySelector(plot).layout.xaxis.range[0] < x",
        arg=[PLOT, zoomed[0][0]],
    )


def test_data_that_come_while_a_chart_is_made_do_not_end_it(page: Page, address: str) -> None:
    held: list[Route] = []
    page.route("**/plotly.min.js*", lambda route: held.append(route))
    page.goto(f"{address}/study?study=1")
    expect(page.get_by_text("Trials · search split")).to_be_visible()
    outside = page.get_by_text("lie outside")
    expect(outside).to_be_visible()
    # a click on a page that is still being drawn may hit what is replaced a moment later
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_timeout(1000)
    page.get_by_text("around the front", exact=True).first.click()
    expect(outside).to_be_hidden()
    assert held
    for route in held:
        route.continue_()
    expect(page.locator(f"{PLOT} .scatterlayer .points path").first).to_be_visible()
    page.wait_for_timeout(1000)
    expect(page.locator(f"{PLOT} .scatterlayer .points path").first).to_be_visible()


def test_nothing_is_fetched_from_elsewhere(page: Page, address: str) -> None:
    foreign: list[str] = []
    page.on(
        "request",
        lambda r: r.url.startswith((address, "data:", "blob:", "ws:")) or foreign.append(r.url),
    )
    page.goto(f"{address}/study?study=1")
    expect(page.locator(PLOT)).to_be_visible()
    page.wait_for_timeout(1000)
    assert foreign == []
    tools = page.locator(f"{PLOT} .modebar-btn").evaluate_all(
        "all => all.map(b => b.dataset.title)"
    )
    # no 'Share chart': it sends the figure to Plotly's servers
    assert tools == ["Zoom", "Pan", "Box Select", "Lasso Select", "Zoom in", "Zoom out",
                     "Reset axes", "Full screen"]  # fmt: skip


@pytest.mark.parametrize(
    ("link", "cookie", "there", "shown"),
    [
        ("/?study=1&trial=3", "", "/candidate?study=1&trial=3", "Trial 3"),
        ("/workers", "", "/workers", "Workers alive"),
        ("/", "", "/", "New study"),
        # of somebody else's making
        ("/workers", "%2F%2Felsewhere.example%2Fx%3Fstudy%3D1", "/", "New study"),
    ],
)
def test_signing_in_leads_to_the_link_that_was_followed_once(
    sign_in: Any,
    page: Page,
    address: str,
    link: str,
    cookie: str,
    there: str,
    shown: str,
) -> None:
    sign_in.claims = {"sub": "2", "email": "ada@lab.example", "email_verified": True}
    page.goto(f"{address}{link}")
    page.wait_for_function("document.cookie.includes('remelt-link=%2F')")
    if cookie:
        page.context.add_cookies([{"name": "remelt-link", "value": cookie, "url": address}])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("ada@lab.example · submitter")).to_be_visible()
    expect(page.get_by_text(shown).first).to_be_visible()
    expect(page).to_have_url(f"{address}{there}")
    # the next time they come, they come as they are
    page.wait_for_function("!document.cookie.includes('remelt-link')")
    page.goto(address)
    expect(page.get_by_role("button", name="New study")).to_be_visible()
    expect(page).to_have_url(f"{address}/")


@pytest.fixture
def sign_in(
    oidc: Any,
    port: int,
    study_with_results: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """The dashboard asks a provider who is there; ada submits, everybody else looks."""
    file = tmp_path / "sign-in.toml"
    file.write_text(oidc.secrets_toml(f"http://127.0.0.1:{port}"))
    monkeypatch.setenv("REMELT_SIGN_IN_FILE", str(file))
    monkeypatch.setenv("REMELT_SUBMITTERS", "ada@lab.example")
    settings.cache_clear()
    with study_with_results.database.transaction() as connection:
        connection.execute("UPDATE study SET owner = 'ada@lab.example'")
    return oidc


def test_signing_in_gives_the_role_that_the_settings_say(
    sign_in: Any, page: Page, address: str, study_with_results: Any
) -> None:
    sign_in.claims = {"sub": "1", "email": "eve@lab.example", "email_verified": True}
    page.goto(f"{address}/study?study=2")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    expect(page.get_by_text("better-and-quiet")).to_have_count(0)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("eve@lab.example · viewer")).to_be_visible()
    # back at the link that was followed
    expect(page.get_by_text("You are a viewer")).to_be_visible()
    expect(page).to_have_url(f"{address}/study?study=2")
    expect(page.get_by_role("button", name="Export")).to_be_visible()
    for name in ("Cancel", "Pause", "Clone", "Edit"):
        expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    sign_in.claims = {"sub": "2", "email": "ada@lab.example", "email_verified": True}
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("ada@lab.example · submitter")).to_be_visible()
    page.goto(f"{address}/study?study=2")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    text = read.events(study_with_results.database, 2)[-1]["text"]
    assert text == "paused by ada@lab.example"


def test_a_study_is_cancelled_archived_and_cloned(
    page: Page, address: str, study_with_results: Any
) -> None:
    page.goto(f"{address}/study?study=2")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the study").click()
    page.get_by_role("button", name="Archive").click()
    expect(page.get_by_role("button", name="Unarchive")).to_be_visible()
    page.get_by_role("button", name="Clone").click()
    expect(page).to_have_url(re.compile(r"/new\?clone=2"))
    expect(page.get_by_text("A clone of study #2")).to_be_visible()
    write_spec(page, "trials: 40", "trials: 7")
    expect(page.get_by_text("at most 7 candidates")).to_be_visible()
    page.get_by_role("button", name="Submit study").click()
    expect(page).to_have_url(re.compile(r"/study\?study=3"))
    database = study_with_results.database
    mine, old = (read.get_study(database, n).spec for n in (3, 2))
    assert mine.budget.trials == 7
    assert mine.search == old.search
    page.goto(address)
    expect(page.get_by_role("link", name="#3 better-and-quiet")).to_be_visible()
    expect(page.get_by_role("link", name="#2 better-and-quiet")).to_have_count(0)


def test_the_report_is_read_opened_and_taken_along(
    page: Page, address: str, study_with_results: Any, tmp_path: Path
) -> None:
    before = len(sealed.readings(study_with_results.database, 1))
    page.goto(f"{address}/study?study=1")
    page.get_by_role("link", name="Report").click()
    expect(page).to_have_url(re.compile(r"/report\?study=1"))
    expect(page.get_by_text("Judged on the validation split")).to_be_visible()
    expect(page.locator(".report figure img").first).to_be_visible()
    drawn = page.evaluate(
        "[...document.querySelectorAll('.report figure img')].every(i => i.naturalWidth > 100)"
    )
    assert drawn
    # what a card means is in its edge's colour
    edges = page.evaluate(
        "[...document.querySelectorAll('.report .card')].map(c => ['good', 'bad', 'unsure']"
        ".some(t => c.classList.contains(t)) + ' ' + getComputedStyle(c).borderLeftColor)"
    )
    plain = {edge.split(" ", 1)[1] for edge in edges if edge.startswith("false")}
    toned = {edge.split(" ", 1)[1] for edge in edges if edge.startswith("true")}
    assert toned
    assert toned.isdisjoint(plain)
    page.get_by_role("button", name="Judge on the test split (logged)").click()
    expect(page.get_by_text("Judged on the test split")).to_be_visible()
    assert len(sealed.readings(study_with_results.database, 1)) == before + 1
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download HTML").click()
    saved = tmp_path / "report.html"
    waiting.value.save_as(saved)
    foreign: list[str] = []
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or foreign.append(r.url))
    tables = "[...document.querySelectorAll('.report .table')]"
    for width, height in ((1440, 900), (820, 1180), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(saved.as_uri())
        expect(page.get_by_role("heading", name="Verdict")).to_be_visible()
        # nothing is wider than the page
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(f"{tables}.every(t => t.scrollWidth <= t.clientWidth)")
    assert foreign == []
    folds(page)
    page.goto(f"{address}/report?study=1")
    folds(page)


def folds(page: Page) -> None:
    """On a telephone the report begins as a list of its titles; paper has everything."""
    verdict, pool = page.locator("#verdict .content"), page.locator("#pool .content")
    sections = page.locator(".report section .content")
    page.set_viewport_size({"width": 390, "height": 844})
    expect(verdict).to_be_visible()
    expect(pool).to_be_hidden()
    page.locator("#pool h2").click()
    expect(pool).to_be_visible()
    page.locator("#pool h2").click()
    expect(pool).to_be_hidden()
    page.emulate_media(media="print")
    assert all(one.is_visible() for one in sections.all())
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1440, "height": 900})
    assert all(one.is_visible() for one in sections.all())
