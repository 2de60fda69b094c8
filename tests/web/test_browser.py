"""The pages in a real browser: live without reload, usable by keyboard, quiet about errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.settings import load_settings
from storage.queue import JobState
from storage.users import Role

from .arrivals import come_again, open_one, refuse
from .fill import PASSWORD, Line, Node

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
PICTURES = os.environ.get("LIMNER_PAGE_PICTURES", "")
"""A folder; when it is set, pictures of the pages are left there for a person to look at."""

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium at /usr/bin/chromium")

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    """Return a headless Chromium."""
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser: sync_api.Browser, address: str) -> Iterator[sync_api.Page]:
    """Return a page that fails its test when the browser reports an error."""
    context = browser.new_context(base_url=address, viewport=DESKTOP)
    made = context.new_page()
    made.set_default_timeout(20_000)
    complaints: list[str] = []
    made.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    made.on("pageerror", lambda error: complaints.append(str(error)))
    yield made
    context.close()
    assert complaints == []


@pytest.fixture
def night(node: Node, page: sync_api.Page) -> sync_api.Page:
    """Return a page on which an operator is signed in."""
    node.add_user("night")
    page.goto("/")
    page.get_by_label("Name").fill("night")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#verdict")
    return page


def picture(page: sync_api.Page, name: str) -> None:
    """Leave a picture of the page, if somebody wants one."""
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"), full_page=name.endswith("phone"))


def test_a_person_signs_in_and_watches_a_study_go_through_without_reload(
    night: sync_api.Page, line: Line
) -> None:
    night.evaluate("window.notReloaded = true")
    sync_api.expect(night.locator("#number-arriving strong")).to_have_text("0")
    line.arrive()
    sync_api.expect(night.locator("#number-arriving strong")).to_have_text("1")
    line.settle().claim()
    sync_api.expect(night.locator("#number-running strong")).to_have_text("1")
    sync_api.expect(night.locator("#events")).to_contain_text("Study settled")
    assert night.evaluate("window.notReloaded") is True


def test_a_study_changes_its_state_before_the_readers_eyes(
    night: sync_api.Page, line: Line
) -> None:
    line.arrive().settle().claim()
    night.goto(f"/studies/{line.uid}")
    night.evaluate("window.notReloaded = true")
    sync_api.expect(night.locator("#line")).to_contain_text("62 %")
    picture(night, "study-running")
    line.finish().deliver().end()
    sync_api.expect(night.locator("#study .chip")).to_have_text("done")
    sync_api.expect(night.locator("#line")).to_contain_text("committed itself to keep it")
    sync_api.expect(night.locator("#results img")).to_be_visible()
    assert night.evaluate("window.notReloaded") is True


def test_the_overlay_is_scrolled_by_slider_keys_and_wheel(night: sync_api.Page, line: Line) -> None:
    line.arrive().settle().claim().finish().deliver().end()
    night.goto(f"/studies/{line.uid}")
    shown, image = night.locator("#results output"), night.locator("#results img")
    sync_api.expect(shown).to_have_text("Slice 6 of 12")
    night.locator("#results input[type=range]").fill("9")
    sync_api.expect(shown).to_have_text("Slice 9 of 12")
    image.focus()
    night.keyboard.press("ArrowDown")
    sync_api.expect(shown).to_have_text("Slice 10 of 12")
    image.hover()
    night.mouse.wheel(0, -120)
    sync_api.expect(shown).to_have_text("Slice 9 of 12")
    sync_api.expect(image).to_have_attribute("src", f"/studies/{line.uid}/results/1/pictures/9")
    sync_api.expect(image).to_have_js_property("naturalWidth", 128)
    night.wait_for_timeout(2500)  # one renewal of the page later the reader is still there
    sync_api.expect(shown).to_have_text("Slice 9 of 12")


def test_a_failed_job_is_requeued_in_two_steps_from_the_now_page(
    night: sync_api.Page, line: Line
) -> None:
    line.arrive().settle().claim().fail()
    night.get_by_role("link", name="Show it").click()
    night.get_by_role("link", name="Thorax native").click()
    picture(night, "study-failed")
    night.get_by_text("Requeue…").click()
    assert line.state_of_job() is JobState.FAILED
    Line(line.node, images=line.images + 1).arrive()  # a late image renews the page
    received = night.locator("#line").get_by_text("Received from ct1")
    sync_api.expect(received).to_have_count(2)
    night.get_by_role("button", name="Yes, put it back in the queue").click()
    sync_api.expect(night.get_by_text("The job is back in the queue.")).to_be_visible()
    assert line.state_of_job() is JobState.QUEUED


def test_focus_stays_where_it_is_when_the_page_renews_itself(
    night: sync_api.Page, line: Line
) -> None:
    night.locator("#number-waiting").focus()
    line.arrive().settle()
    sync_api.expect(night.locator("#number-waiting strong")).to_have_text("1")
    assert night.evaluate("document.activeElement.id") == "number-waiting"


def test_a_page_that_gets_no_answer_says_that_it_is_old(
    night: sync_api.Page,
) -> None:
    sync_api.expect(night.locator("#stale")).to_be_hidden()
    # A connection that is really refused would be a console error, which fails every test here.
    night.evaluate("() => { window.fetch = () => Promise.reject(new Error('away')); }")
    sync_api.expect(night.locator("#stale")).to_be_visible()


def test_a_session_that_ended_leads_back_to_the_sign_in(node: Node, night: sync_api.Page) -> None:
    night.context.clear_cookies()
    night.wait_for_url("**/sign-in**")
    assert node.settings.web.enabled


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_page_is_wider_than_its_window(
    browser: sync_api.Browser, address: str, line: Line, size: dict[str, int], scheme: str
) -> None:
    node = line.node
    node.add_user("night", Role.ADMIN)
    line.arrive().settle().claim().finish().deliver(refused="The peer lacks the SOP class.")
    Line(node, number=8).arrive().hold(
        "Instance 1.2.826.0.1.3680043.8.498.8.1.1 carries this study's UID but another patient "
        "ID or issuer. Nothing is made or sent until a person has compared both."
    )
    doubtful = Line(node, number=9).arrive()
    come_again(node, doubtful, images=3, patient_id="PHANTOM-0010")
    for count in range(3):
        refuse(node, address=f"2001:db8::{count}")
        open_one(node)
    context = browser.new_context(base_url=address, viewport=size, color_scheme=scheme)
    [(name, value)] = node.open_session("night").items()
    context.add_cookies([{"name": name, "value": value, "url": address}])
    page = context.new_page()
    for name, path in (
        ("now", "/"),
        ("studies", "/studies"),
        ("study", f"/studies/{line.uid}"),
        ("conflicts", f"/studies/{doubtful.uid}"),
        ("associations", "/associations"),
        ("callers", "/callers"),
    ):
        page.goto(path)
        for act in page.locator("details > summary").all()[:2]:
            act.click()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size["width"], name
        picture(page, f"{name}-{scheme}-{'desktop' if size is DESKTOP else 'phone'}")
    context.close()


def test_what_is_typed_into_a_form_stays_when_the_page_renews_itself(
    node: Node, browser: sync_api.Browser, address: str
) -> None:
    refuse(node)
    node.add_user("chief", Role.ADMIN)
    context = browser.new_context(base_url=address)
    [(name, value)] = node.open_session("chief").items()
    context.add_cookies([{"name": name, "value": value, "url": address}])
    page = context.new_page()
    page.goto("/callers")
    page.get_by_text("Accept…").click()
    page.get_by_label("Name of the peer").fill("ct-new")
    page.get_by_label("may ask whether we are there").uncheck()
    refuse(node)  # it calls again: the count on the page changes
    sync_api.expect(page.locator("#rows td[data-name=Times]")).to_have_text("2")
    sync_api.expect(page.get_by_label("Name of the peer")).to_have_value("ct-new")
    page.get_by_role("button", name="Yes, accept this caller").click()
    sync_api.expect(page.get_by_text("takes it up")).to_be_visible()
    peer = load_settings(node.settings.path).peer("ct-new")
    assert peer is not None and peer.may == {"store"}
    context.close()


def test_without_script_the_pages_still_show_and_act(
    node: Node, browser: sync_api.Browser, address: str, line: Line
) -> None:
    line.arrive().settle().claim().fail()
    node.add_user("night")
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"/studies/{line.uid}")
    page.get_by_label("Name").fill("night")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("Requeue…").click()
    page.get_by_role("button", name="Yes, put it back in the queue").click()
    page.get_by_text("The job is back in the queue.").wait_for()
    assert line.state_of_job() is JobState.QUEUED
    context.close()
