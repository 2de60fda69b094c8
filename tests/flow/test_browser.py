"""A person at the pages of a real node: signs in, watches a study go through, scrolls, requeues."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running_node import CHEST, Line, made_node, peers_and_routes

from node.phantom.pacs import PhantomPacs
from node.phantom.study import make_study

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
PASSWORD = "four words in a row"  # noqa: S105  of a node that lives for this test
PICTURES = os.environ.get("LIMNER_PAGE_PICTURES", "")

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium at /usr/bin/chromium"),
]


def test_a_person_watches_a_study_go_through_a_real_node_scrolls_and_requeues(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    study = make_study(7, CHEST)
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        tables = peers_and_routes(pacs_port=pacs.target.port, model="lung-ct")
        with made_node(tmp_path / "node", free_port, tables, web=True, quiet_s=5.0) as node:
            line = Line(node, pacs)
            line.start()
            add = [sys.executable, "-m", "node.cli", "users", "add", "night", "--role", "operator"]
            add += ["--password-stdin", "--config", str(node.config)]
            subprocess.run(add, input=PASSWORD + "\n", text=True, check=True, timeout=60)
            port = node.settings.web.port
            with sync_api.sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=120_000
                )
                page = browser.new_page(
                    base_url=f"http://127.0.0.1:{port}", viewport={"width": 1280, "height": 900}
                )
                page.set_default_timeout(60_000)
                page.goto("/")
                page.get_by_label("Name").fill("night")
                page.get_by_label("Password").fill(PASSWORD)
                page.get_by_role("button", name="Sign in").click()
                page.wait_for_selector("#verdict")
                page.evaluate("window.notReloaded = true")
                line.send(study)
                expect = sync_api.expect
                expect.set_options(timeout=60_000)  # a busy machine is not a broken page
                expect(page.locator("#events")).to_contain_text("settled", timeout=60_000)
                node.wait_done(study.study_uid)
                assert page.evaluate("window.notReloaded") is True
                page.goto(f"/studies/{study.study_uid}")
                expect(page.locator("#study .chip")).to_have_text("done")
                shown = page.locator("#results output")
                page.locator("#results input[type=range]").fill("9")
                expect(shown).to_have_text("Slice 9 of 36")
                width = page.locator("#results img").evaluate(
                    "async image => { await image.decode(); return image.naturalWidth; }"
                )
                assert width > 0
                if PICTURES:
                    page.screenshot(path=str(Path(PICTURES) / "real-study.png"), full_page=True)
                page.get_by_text("Run again…").first.click()
                page.get_by_role("button", name="Yes, run it again").click()

                def ran_again() -> bool | None:
                    told = node.story(study.study_uid)
                    states = [job.job.state for job in told.jobs] if told else []
                    sent = len(pacs.stored) == 2 and told.study.state == "done"
                    return (set(states) == {"done"} and len(states) >= 2 and sent) or None

                node.wait("the job ran again and its result was sent again", ran_again)
                browser.close()
            # The result was made before: the same bytes reach the PACS once more.
            assert len({(stored.sop_uid, stored.digest) for stored in pacs.stored}) == 1
