"""What the pages say."""

from __future__ import annotations

import threading
import time

import httpx2
import pytest

from node.errors import PassingError
from node.web.serve import open_to_network, run_web
from storage import peers, workers
from storage.database import set_clock_offset, writing
from storage.queue import JobState

from .conftest import token_in
from .fill import HOUR_MS, Line, Node


def test_an_idle_node_says_that_all_is_well(operator: httpx2.Client) -> None:
    page = operator.get("/").text
    assert "All well. Nothing is waiting." in page
    assert "Times are in Europe/Berlin" in page


def test_the_now_page_shows_no_patient(line: Line, operator: httpx2.Client) -> None:
    line.arrive().settle().claim().fail()
    page = operator.get("/").text
    assert "PHANTOM" not in page
    assert "A000007" not in page


def test_a_failed_job_calls_for_a_person_and_leads_to_the_study(
    line: Line, operator: httpx2.Client
) -> None:
    line.arrive().settle().claim().fail()
    page = operator.get("/").text
    assert "Attention: 1 study needs you" in page
    assert 'href="/studies?needs=1"' in page
    listed = operator.get("/studies?needs=1").text
    assert f'href="/studies/{line.uid}"' in listed
    assert "weights do not match" in listed


def test_a_listener_that_is_silent_stops_the_node_in_words(
    node: Node, operator: httpx2.Client
) -> None:
    set_clock_offset(node.engine, 60_000)
    page = operator.get("/").text
    assert "Stopped: the listener gives no sign of life since" in page
    assert "scanners cannot send" in page


def test_a_process_that_died_stays_visible_beside_its_successor(
    node: Node, operator: httpx2.Client
) -> None:
    with writing(node.engine) as db:
        workers.ended(db, "work@node:7", "died: signal 9")
        workers.beat(db, workers.WorkerBeat(name="work@node:70", kind="work", host="node", pid=70))
    page = operator.get("/").text
    assert "All well" in page
    assert "died: signal 9" in page


def test_a_pacs_that_takes_nothing_stops_the_node_in_words(
    node: Node, line: Line, operator: httpx2.Client
) -> None:
    line.arrive().settle().claim().finish()
    with writing(node.engine) as db:
        for _ in range(3):
            peers.failed(db, "pacs", "The peer does not answer.", None)
    page = operator.get("/").text
    assert "Stopped: pacs takes no results" in page
    assert "1 result waits. Last error: The peer does not answer." in page


def test_the_list_finds_by_patient_accession_and_uid(node: Node, operator: httpx2.Client) -> None:
    seven, eight = Line(node, number=7).arrive(), Line(node, number=8).arrive()
    for search in ("PHANTOM-0007", "phantom^7", "A000007", seven.uid):
        page = operator.get("/studies", params={"search": search}).text
        assert seven.uid in page
        assert f"/studies/{eight.uid}" not in page
    assert "No study fits" in operator.get("/studies?search=nobody").text


def test_the_list_filters_by_state_and_pages(
    node: Node, operator: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.web.studies.PAGE", 2)
    for number in range(1, 6):
        Line(node, number=number, images=1).arrive()
        time.sleep(0.002)  # the list is paged by milliseconds
    Line(node, number=9, images=1).arrive().hold("In doubt.")
    assert operator.get("/studies?state=held").text.count('data-name="State"') == 1
    seen, path = [], "/api/studies?state=arriving"
    while path:
        answer = operator.get(path).json()
        seen += [study["uid"].rpartition(".")[2] for study in answer["studies"]]
        path = answer["older"]
    assert seen == ["5", "4", "3", "2", "1"]
    assert operator.get("/studies?state=nonsense&before=never").status_code == 200


def test_a_study_page_tells_the_whole_line_in_order(line: Line, operator: httpx2.Client) -> None:
    line.arrive().settle().claim().finish().deliver().end()
    page = operator.get(f"/studies/{line.uid}").text.partition('id="line"')[2]
    told = [
        "Received from ct1",
        "12 instances in this association, AE title CT1, address 192.0.2.10.",
        "Settled as revision 1",
        "No image came for 60 s.",
        "route lungs runs with lung-ct: Modality is CT.",
        "Queued for lung-ct",
        "lung-ct, attempt 1",
        "infer 9.8 s",
        "SEG made by lung-ct 1.0",
        "Right lung: 2,514.3 mL",
        "SEG to pacs",
        "pacs committed itself to keep it.",
        "C-STORE, attempt 1",
        "Commitment answered after",
        "in all",
    ]
    places = [page.find(words) for words in told]
    assert -1 not in places, told[places.index(-1)]
    assert places == sorted(places)


def test_an_unknown_uid_gets_a_page_that_helps(operator: httpx2.Client) -> None:
    answer = operator.get("/studies/1.2.3.4")
    assert answer.status_code == 404
    assert "This node has no study with the UID 1.2.3.4" in answer.text
    assert "listener is alive" in answer.text


def test_an_operator_requeues_a_failed_job(line: Line, operator: httpx2.Client) -> None:
    line.arrive().settle().claim().fail()
    page = operator.get(f"/studies/{line.uid}")
    answer = operator.post(
        f"/studies/{line.uid}/jobs/1/requeue",
        data={"csrf": token_in(page)},
        follow_redirects=True,
    )
    assert "The job is back in the queue." in answer.text
    assert line.state_of_job() is JobState.QUEUED


def test_an_operator_cancels_a_queued_job_once(line: Line, operator: httpx2.Client) -> None:
    line.arrive().settle()
    data = {"csrf": token_in(operator.get(f"/studies/{line.uid}"))}
    path = f"/studies/{line.uid}/jobs/1/cancel"
    assert "The job is cancelled." in operator.post(path, data=data, follow_redirects=True).text
    assert line.state_of_job() is JobState.CANCELLED
    again = operator.post(path, data=data, follow_redirects=True).text
    assert "Nothing was changed" in again


def test_an_operator_sends_a_refused_result_again(line: Line, operator: httpx2.Client) -> None:
    line.arrive().settle().claim().finish().deliver(
        refused="The peer does not know this SOP class."
    )
    page = operator.get(f"/studies/{line.uid}")
    assert "The peer does not know this SOP class." in page.text
    answer = operator.post(
        f"/studies/{line.uid}/deliveries/1/resend",
        data={"csrf": token_in(page)},
        follow_redirects=True,
    )
    assert "The result will be sent again." in answer.text
    assert "to send" in answer.text


def test_an_operator_releases_a_held_study(node: Node, operator: httpx2.Client) -> None:
    line = Line(node).arrive().hold("Two patient IDs came under this UID.")
    page = operator.get(f"/studies/{line.uid}")
    assert "Two patient IDs came under this UID." in page.text
    answer = operator.post(
        f"/studies/{line.uid}/release", data={"csrf": token_in(page)}, follow_redirects=True
    )
    assert "The study is released." in answer.text
    assert "arriving" in answer.text


def test_without_script_one_slice_is_chosen_by_the_address(
    line: Line, operator: httpx2.Client
) -> None:
    line.arrive().settle().claim().finish()
    page = operator.get(f"/studies/{line.uid}?slice=9").text
    assert f'src="/studies/{line.uid}/results/1/pictures/9"' in page
    beyond = operator.get(f"/studies/{line.uid}?slice=99").text
    assert "/pictures/12" in beyond


def test_the_api_gives_what_the_pages_show(line: Line, operator: httpx2.Client) -> None:
    line.arrive().settle().claim().finish().deliver().end()
    now = operator.get("/api/now").json()
    assert now["schema"] == 1
    assert now["verdict"]["level"] == "well"
    study = operator.get(f"/api/studies/{line.uid}").json()
    assert study["results"][0]["slices"] == 12
    assert [step["title"] for step in study["steps"]][-1] == "Done"
    assert operator.get("/api/studies/1.2.3").status_code == 404


def test_health_and_metrics_answer_this_machine_without_a_sign_in(
    line: Line, client: httpx2.Client
) -> None:
    line.arrive().settle()
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 200
    text = client.get("/metrics").text
    assert 'limner_jobs{state="queued"} 1.0' in text
    assert 'limner_now{what="waiting"} 1.0' in text
    assert "limner_disk_free_bytes" in text
    assert "PHANTOM" not in text
    assert line.uid not in text


def test_metrics_ask_callers_behind_a_proxy_to_sign_in(client: httpx2.Client) -> None:
    assert client.get("/metrics", headers={"x-forwarded-for": "192.0.2.1"}).status_code == 401


def test_a_node_whose_disk_is_full_is_not_ready(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.web.health.MEBI", 2**60)  # the reserve is then larger than any disk
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert "below its reserve" in answer.text


def test_a_node_without_its_tables_is_not_ready_and_says_what_helps(
    node: Node, client: httpx2.Client
) -> None:
    with writing(node.engine) as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = 'older'")
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert "limner migrate" in answer.text


def test_the_web_process_ends_within_two_seconds(node: Node) -> None:
    stop = threading.Event()
    thread = threading.Thread(
        target=run_web, args=(node.settings, node.engine, node.store, stop), name="web"
    )
    thread.start()
    with httpx2.Client(base_url=f"http://127.0.0.1:{node.settings.web.port}") as client:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                client.get("/health/live")
                break
            except httpx2.TransportError:
                time.sleep(0.02)
        began = time.monotonic()
        stop.set()  # while the client's connection is still open
        thread.join(5)
        assert time.monotonic() - began < 2
    assert not thread.is_alive()


@pytest.mark.usefixtures("address")
def test_a_port_in_use_is_told_in_a_sentence(node: Node) -> None:
    with pytest.raises(PassingError, match=r"limner\.toml"):
        run_web(node.settings, node.engine, node.store, threading.Event())


def test_only_loopback_is_closed_to_the_network() -> None:
    assert not open_to_network("127.0.0.1")
    assert not open_to_network("::1")
    assert not open_to_network("localhost")
    assert open_to_network("0.0.0.0")  # noqa: S104
    assert open_to_network("limner.hospital.example")


def test_a_result_that_waits_an_hour_is_worth_a_line(
    node: Node, line: Line, operator: httpx2.Client
) -> None:
    line.arrive().settle().claim().finish()
    set_clock_offset(node.engine, 2 * HOUR_MS)
    node.beat_all()
    assert "a result waits long to be sent" in operator.get("/").text
