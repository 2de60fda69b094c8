"""What every answer carries, and what is refused before anything else."""

from __future__ import annotations

import httpx2
import pytest

from node.web.guard import host_is_known, known_names
from storage import studies
from storage.database import reading
from storage.queue import JobState
from storage.users import Role

from .conftest import token_in
from .fill import Line, Node


@pytest.mark.parametrize(
    "path", ["/", "/sign-in", "/static/limner.css", "/nothing", "/health/live", "/api/now"]
)
def test_every_answer_carries_the_security_headers(client: httpx2.Client, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == ("no-cache" if "static" in path else "no-store")


def test_pages_hold_no_inline_script_style_or_foreign_address(
    line: Line, operator: httpx2.Client
) -> None:
    line.arrive().settle().claim().finish()
    for path in ("/", "/studies", f"/studies/{line.uid}", "/sign-in"):
        text = operator.get(path, follow_redirects=True).text
        assert "<style" not in text
        assert " style=" not in text
        assert " onclick" not in text
        assert "http://" not in text
        assert "https://" not in text
        assert text.count("<script") == text.count('<script src="/static/')


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example"])
def test_a_request_under_another_sites_name_is_refused(client: httpx2.Client, host: str) -> None:
    answer = client.get("/health/live", headers={"host": host})
    assert answer.status_code == 400
    assert "limner.toml" in answer.text


def test_names_addresses_and_ports_of_this_node_are_known() -> None:
    names = known_names("limner.hospital.example")
    known = ("localhost:8180", "127.0.0.1", "[::1]:8180", "192.0.2.7:80", "LIMNER.hospital.example")
    assert all(host_is_known(host, names) for host in known)
    assert not host_is_known("", names)


ACTS = ("release", "jobs/1/requeue", "jobs/1/cancel", "deliveries/1/resend")


@pytest.mark.parametrize("act", ACTS)
def test_an_act_without_its_forms_token_is_refused_and_changes_nothing(
    line: Line, operator: httpx2.Client, act: str
) -> None:
    line.arrive().settle().claim().fail()
    for data in ({}, {"csrf": ""}, {"csrf": "guessed"}):
        answer = operator.post(f"/studies/{line.uid}/{act}", data={**data, "x": "1"})
        assert answer.status_code == 403
    assert line.state_of_job() is JobState.FAILED


@pytest.mark.parametrize("act", ACTS)
def test_a_viewer_may_look_but_not_act(
    node: Node, line: Line, client: httpx2.Client, act: str
) -> None:
    line.arrive().settle().claim().fail()
    node.add_user("guest", Role.VIEWER)
    client.cookies.update(node.open_session("guest"))
    page = client.get(f"/studies/{line.uid}")
    assert page.status_code == 200
    assert "requeue" not in page.text
    token = token_in(page)  # of the sign-out form: the token itself is genuine
    answer = client.post(f"/studies/{line.uid}/{act}", data={"csrf": token})
    assert answer.status_code == 403
    assert "operator" in answer.text
    assert line.state_of_job() is JobState.FAILED


def test_acts_do_not_answer_to_get(line: Line, operator: httpx2.Client) -> None:
    line.arrive().settle().claim().fail()
    assert operator.get(f"/studies/{line.uid}/jobs/1/requeue").status_code == 405
    assert line.state_of_job() is JobState.FAILED


def test_an_act_needs_the_study_that_the_job_belongs_to(
    node: Node, line: Line, operator: httpx2.Client
) -> None:
    line.arrive().settle().claim().fail()
    other = Line(node, number=8).arrive()
    token = token_in(operator.get("/"))
    answer = operator.post(f"/studies/{other.uid}/jobs/1/requeue", data={"csrf": token})
    assert answer.status_code == 404
    assert line.state_of_job() is JobState.FAILED


def test_markup_in_a_patients_name_stays_text(node: Node, operator: httpx2.Client) -> None:
    name = "<script>alert(1)</script>^\"'><img src=x onerror=alert(2)>"
    line = Line(node, patient_name=name).arrive().settle()
    for path in ("/studies", f"/studies/{line.uid}", "/studies?search=<script>"):
        text = operator.get(path).text
        assert "&lt;script&gt;" in text
        assert "<script>" not in text
        assert "<img src=x" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2f..%2fsettings.py",
        "/static//etc/passwd",
        "/static/",
    ],
)
def test_nothing_outside_the_static_folder_is_served(client: httpx2.Client, path: str) -> None:
    answer = client.send(httpx2.Request("GET", client.base_url.join(path)))
    assert answer.status_code in {303, 404}
    assert "import" not in answer.text


@pytest.mark.parametrize(
    "number", ["0", "13", "-1", "1e3", "999999999999999999999999", "..%2f1", "%00", "1" * 5000]
)
def test_pictures_that_do_not_exist_are_not_found(
    line: Line, operator: httpx2.Client, number: str
) -> None:
    line.arrive().settle().claim().finish()
    base = f"/studies/{line.uid}/results/{line.result_id}/pictures"
    assert operator.get(f"{base}/12").status_code == 200
    assert operator.get(f"{base}/{number}").status_code == 404


def test_a_picture_is_found_only_under_its_own_study_and_after_signing_in(
    node: Node, line: Line, operator: httpx2.Client
) -> None:
    line.arrive().settle().claim().finish()
    other = Line(node, number=8).arrive()
    picture = f"results/{line.result_id}/pictures/1"
    assert operator.get(f"/studies/{other.uid}/{picture}").status_code == 404
    answer = operator.get(f"/studies/{line.uid}/{picture}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content.startswith(b"\xff\xd8")
    operator.cookies.clear()
    assert operator.get(f"/studies/{line.uid}/{picture}").status_code == 303


@pytest.mark.parametrize("path", ["/studies/not-a-uid", "/studies/%00", "/studies/1%2f2"])
def test_what_is_no_uid_never_reaches_the_database(operator: httpx2.Client, path: str) -> None:
    assert operator.get(path).status_code == 404


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"a=" + b"x" * 9000, "application/x-www-form-urlencoded", 413),
        (b"{}", "application/json", 415),
        (b"\xff=1", "application/x-www-form-urlencoded", 400),
        (b"&".join([b"a=1"] * 50), "application/x-www-form-urlencoded", 400),
    ],
)
def test_bodies_that_are_no_form_of_ours_are_refused(
    operator: httpx2.Client, body: bytes, kind: str, status: int
) -> None:
    answer = operator.post("/sign-out", content=body, headers={"content-type": kind})
    assert answer.status_code == status


def test_acts_are_audited_with_who_and_what(node: Node, operator: httpx2.Client) -> None:
    line = Line(node).arrive().hold("An identity is in doubt.")
    token = token_in(operator.get(f"/studies/{line.uid}"))
    operator.post(f"/studies/{line.uid}/release", data={"csrf": token})
    node.add_user("chief", Role.ADMIN)
    operator.cookies.update(node.open_session("chief"))
    page = operator.get("/audit").text
    assert "release" in page
    assert f"study {line.uid}" in page
    with reading(node.engine) as db:
        study = studies.find_study(db, line.uid)
    assert study is not None
    assert study.state == "arriving"
