"""What the pages say of associations, refused callers and conflicts, and who may decide there."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from associating import closed

from node.settings import load_settings
from storage import audit, callers, instances, notices, studies
from storage.associations import AssociationOutcome
from storage.conflict_rows import list_conflicts
from storage.database import reading, writing
from storage.notices import NoticeKind
from storage.users import Role

from .arrivals import come_again, open_one, refuse
from .conftest import token_in
from .fill import Line, Node


def test_a_live_association_is_shown_with_what_it_has_brought_so_far(
    node: Node, operator: httpx2.Client
) -> None:
    open_one(node)
    page = operator.get("/associations").text
    assert "receiving" in page and "TLS" in page and "SCANNER_1" in page
    assert "1 of 2 accepted" in page
    assert "CT Image Storage: Explicit VR Little Endian" in page
    assert "Basic Text SR Storage: not accepted, the class is not taken" in page
    assert "(1 open now)" in operator.get("/").text


def test_a_past_association_says_how_it_ended_and_why(node: Node, operator: httpx2.Client) -> None:
    made = open_one(node)
    with writing(node.engine) as db:
        closed(
            db,
            made,
            AssociationOutcome.LOST,
            instances=41,
            refused=2,
            bytes=21_000_000,
            reason="The connection broke within instance 44.",
        )
    page = operator.get("/associations").text
    assert "connection lost" in page and "The connection broke within instance 44." in page
    assert "21 MB" in page and ">41<" in page and ">2<" in page
    assert operator.get("/associations?open=1").text.count('data-name="State"') == 0


def test_associations_are_found_by_peer_and_by_study(
    node: Node, line: Line, operator: httpx2.Client
) -> None:
    open_one(node, peer="mr1", calling_ae="MR1")
    line.arrive()
    for asked in ("peer=ct1", "peer=CT1", f"study={line.uid}"):
        page = operator.get(f"/associations?{asked}").text
        assert "CT1" in page and "MR1" not in page
    assert f'href="/associations?study={line.uid}"' in operator.get(f"/studies/{line.uid}").text
    assert "No association brought" in operator.get("/associations?study=1.2.3").text
    assert "No association fits" in operator.get("/associations?peer=nobody").text


def test_associations_are_paged(
    node: Node, operator: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.web.associations.PAGE", 2)
    for number in range(3):
        open_one(node, calling_ae=f"CT{number}")
    first = operator.get("/associations").text
    assert "CT2" in first and "CT0" not in first and 'href="/associations?before=2"' in first
    second = operator.get("/associations?before=2").text
    assert "CT0" in second and "CT2" not in second


def test_a_refused_caller_is_shown_and_counted_on_the_now_page(
    node: Node, operator: httpx2.Client
) -> None:
    assert "in the last day" not in operator.get("/").text
    refuse(node)
    assert "(1 in the last day)" in operator.get("/").text
    page = operator.get("/callers").text
    assert "NEW_CT" in page and "CT Image Storage" in page
    assert "No peer has this AE title." in page
    assert "accept" not in page.lower().replace("refused", "")  # that is an administrator's


def admin(node: Node, client: httpx2.Client) -> httpx2.Client:
    node.add_user("chief", Role.ADMIN)
    client.cookies.update(node.open_session("chief"))
    return client


def test_an_administrator_accepts_a_caller_with_one_click(
    node: Node, client: httpx2.Client
) -> None:
    caller = refuse(node)
    admin(node, client)
    page = client.get("/callers")
    assert 'value="new-ct"' in page.text
    form = {"csrf": token_in(page), "name": "ct9", "may-store": "1", "from": "address"}
    answer = client.post(f"/callers/{caller}/accept", data=form, follow_redirects=True)
    assert "The running listener takes it up" in answer.text and "Nobody was refused" in answer.text
    peer = load_settings(node.settings.path).peer("ct9")
    assert peer is not None and peer.may == {"store"} and peer.addresses == ("192.0.2.99",)
    with reading(node.engine) as db:
        [row] = audit.list_audit(db, target="peer ct9")
    assert (row.who, row.act) == ("chief", "accept")


def test_a_second_click_and_a_bad_name_change_nothing(node: Node, client: httpx2.Client) -> None:
    caller = refuse(node)
    admin(node, client)
    form = {"csrf": token_in(client.get("/callers")), "name": "ct1", "may-store": "1"}
    answer = client.post(f"/callers/{caller}/accept", data=form)
    assert answer.status_code == 400 and "There is a peer &#39;ct1&#39; already" in answer.text
    again = client.post(f"/callers/{caller + 1}/accept", data=form, follow_redirects=True)
    assert "not on the list any more" in again.text
    assert list(Path(node.settings.path).parent.glob("limner.d/*.toml")) == []


def test_an_administrator_takes_a_caller_off_the_list(node: Node, client: httpx2.Client) -> None:
    caller = refuse(node)
    admin(node, client)
    form = {"csrf": token_in(client.get("/callers"))}
    answer = client.post(f"/callers/{caller}/forget", data=form, follow_redirects=True)
    assert "Taken off the list." in answer.text
    with reading(node.engine) as db:
        assert callers.list_callers(db) == []
        assert audit.list_audit(db, target=f"caller {caller}")[0].who == "chief"


@pytest.mark.parametrize("act", ["accept", "forget"])
def test_only_an_administrator_lets_callers_in(
    node: Node, operator: httpx2.Client, act: str
) -> None:
    caller = refuse(node)
    token = token_in(operator.get("/callers"))
    answer = operator.post(f"/callers/{caller}/{act}", data={"csrf": token, "name": "x"})
    assert answer.status_code == 403
    with reading(node.engine) as db:
        assert len(callers.list_callers(db)) == 1


def test_a_conflict_is_flagged_in_the_list_and_shown_with_both_sides(
    node: Node, line: Line, operator: httpx2.Client
) -> None:
    line.arrive()
    come_again(node, line, patient_id="OTHER-1")
    assert "1 conflict" in operator.get("/studies").text
    page = operator.get(f"/studies/{line.uid}").text
    assert "Patient ID differs" in page and "workstation" in page
    assert "PHANTOM-0007" in page and "OTHER-1" in page
    assert "conflict: identity" in page and "1 wait for a person" in page
    view = operator.get(f"/api/studies/{line.uid}").json()
    assert [one["counts"] for one in view["conflicts"]["shown"][0]["versions"]] == [True, False]


def test_a_thousand_conflicts_are_one_step_and_ten_are_shown(
    node: Node, operator: httpx2.Client
) -> None:
    line = Line(node, images=15).arrive()
    come_again(node, line, images=15, patient_id="OTHER-1")
    page = operator.get(f"/studies/{line.uid}").text
    assert page.count('class="conflict"') == 10 and "5 more" in page
    assert page.count("conflict: identity") == 1
    assert "15 instances with a known UID and other content came from workstation" in page


@pytest.mark.parametrize(("choice", "patient"), [("first", "PHANTOM-0007"), ("last", "OTHER-1")])
def test_an_operator_decides_one_conflict_on_the_studys_page(
    node: Node, operator: httpx2.Client, choice: str, patient: str
) -> None:
    line = Line(node, images=1).arrive()
    come_again(node, line, patient_id="OTHER-1")
    token = token_in(operator.get(f"/studies/{line.uid}"))
    answer = operator.post(
        f"/studies/{line.uid}/conflicts/1/keep/{choice}",
        data={"csrf": token},
        follow_redirects=True,
    )
    assert "Decided. Both are still stored." in answer.text
    with reading(node.engine) as db:
        row = instances.find_instance(db, f"{line.uid}.1.1")
        [conflict] = list_conflicts(db)
        [said] = audit.list_audit(db, target="conflict 1")
    assert row is not None and row.patient_id == patient
    assert (conflict.chosen, conflict.decided_by) == (choice, "night")
    assert (said.who, said.act) == ("night", f"keep {choice}")


def test_all_conflicts_of_a_study_are_decided_at_once(node: Node, operator: httpx2.Client) -> None:
    line = Line(node, images=3).arrive()
    come_again(node, line, images=3, patient_id="OTHER-1")
    page = operator.get(f"/studies/{line.uid}")
    assert "3 conflicts without a decision" in page.text
    url = f"/studies/{line.uid}/conflicts/keep/last"
    answer = operator.post(url, data={"csrf": token_in(page)}, follow_redirects=True)
    assert "OTHER-1" in answer.text and "decided by night" in answer.text
    with reading(node.engine) as db:
        study = studies.find_study(db, line.uid)
    assert study is not None and study.patient_id == "OTHER-1" and study.state == "held"


@pytest.mark.parametrize(
    "path", ["conflicts/9/keep/last", "conflicts/1/keep/both", "conflicts/keep/both"]
)
def test_what_does_not_exist_is_not_decided(
    node: Node, line: Line, operator: httpx2.Client, path: str
) -> None:
    line.arrive()
    come_again(node, line, patient_id="OTHER-1")
    token = token_in(operator.get("/"))
    answer = operator.post(f"/studies/{line.uid}/{path}", data={"csrf": token})
    assert answer.status_code == 404
    other = Line(node, number=8).arrive()
    answer = operator.post(f"/studies/{other.uid}/conflicts/1/keep/last", data={"csrf": token})
    assert answer.status_code == 404
    with reading(node.engine) as db:
        assert [row.open for row in list_conflicts(db)] == [True]


def test_a_viewer_sees_conflicts_and_cannot_decide(
    node: Node, line: Line, client: httpx2.Client
) -> None:
    line.arrive()
    come_again(node, line, images=2, patient_id="OTHER-1")
    node.add_user("guest", Role.VIEWER)
    client.cookies.update(node.open_session("guest"))
    page = client.get(f"/studies/{line.uid}")
    assert "OTHER-1" in page.text and "/keep/" not in page.text
    for path in ("conflicts/1/keep/last", "conflicts/keep/last"):
        answer = client.post(f"/studies/{line.uid}/{path}", data={"csrf": token_in(page)})
        assert answer.status_code == 403


def test_instances_of_another_patient_are_told_on_the_page(
    node: Node, line: Line, operator: httpx2.Client
) -> None:
    line.arrive()
    come_again(node, line, sop_uid=f"{line.uid}.1.99", patient_id="OTHER-1")
    page = operator.get(f"/studies/{line.uid}").text
    assert "1 instance is of another patient" in page
    assert "The last of all count" in page and "The first of all count" not in page


def test_what_a_modality_said_is_a_step(node: Node, line: Line, operator: httpx2.Client) -> None:
    line.arrive()
    with writing(node.engine) as db:
        notices.record_notice(
            db,
            NoticeKind.MPPS,
            "1.2.3",
            study_uid=line.uid,
            status="COMPLETED",
            detail={f"{line.uid}.1": 12},
            sender="ct1",
        )
    page = operator.get(f"/studies/{line.uid}").text
    assert "Performed procedure step from ct1" in page and "completed" in page


def test_the_metrics_count_what_was_received(
    node: Node, line: Line, operator: httpx2.Client
) -> None:
    line.arrive()
    come_again(node, line, patient_id="OTHER-1")
    open_one(node)
    refuse(node)
    text = operator.get("/metrics").text
    for wanted in (
        'limner_associations{outcome="released"} 1.0',
        'limner_associations{outcome="open"} 1.0',
        "limner_received_instances_total 12.0",
        "limner_refused_instances_total 0.0",
        "limner_received_bytes_total 0.0",
        'limner_conflicts{state="open"} 1.0',
        "limner_refused_callers 1.0",
    ):
        assert wanted in text, wanted
