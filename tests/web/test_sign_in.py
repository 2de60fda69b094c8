"""Who gets in, and who does not."""

from __future__ import annotations

import subprocess
import sys

import httpx2
import pytest

from node.errors import SetupError
from node.web.passwords import SHORTEST, check_policy, hash_password, verify_password
from storage import audit, users
from storage.database import reading, set_clock_offset, writing
from storage.users import Role

from .conftest import sign_in, token_in
from .fill import HOUR_MS, PASSWORD, Node

PAGES = ("/", "/studies", "/studies/1.2.3", "/audit")


@pytest.mark.parametrize("path", PAGES)
def test_every_page_sends_strangers_to_the_sign_in(client: httpx2.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")


@pytest.mark.parametrize("path", ["/api/now", "/api/studies", "/api/studies/1.2.3"])
def test_the_api_answers_strangers_with_401(client: httpx2.Client, path: str) -> None:
    assert client.get(path).status_code == 401


def test_without_users_the_sign_in_page_says_how_to_make_the_first(client: httpx2.Client) -> None:
    page = client.get("/sign-in").text
    assert "limner users add NAME --role admin" in page
    assert 'name="password"' not in page


def test_a_person_signs_in_and_comes_to_the_page_they_asked_for(
    node: Node, client: httpx2.Client
) -> None:
    node.add_user("night")
    form = client.get(client.get("/studies?search=A0").headers["location"])
    assert 'value="/studies?search=A0"' in form.text
    answer = client.post(
        "/sign-in",
        data={
            "name": "night",
            "password": PASSWORD,
            "csrf": token_in(form),
            "to": "/studies?search=A0",
        },
    )
    assert answer.headers["location"] == "/studies?search=A0"
    assert client.get("/studies").status_code == 200


@pytest.mark.parametrize("to", ["https://evil.example", "//evil.example", "/\\evil.example", ""])
def test_the_sign_in_never_leads_to_another_site(
    node: Node, client: httpx2.Client, to: str
) -> None:
    node.add_user("night")
    form = client.get("/sign-in")
    data = {"name": "night", "password": PASSWORD, "csrf": token_in(form), "to": to}
    assert client.post("/sign-in", data=data).headers["location"] == "/"


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(
    node: Node, client: httpx2.Client
) -> None:
    node.add_user("night")
    cookie = sign_in(client, "night").headers.get_list("set-cookie")[0].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "; secure" not in cookie  # the request came over plain HTTP on loopback


def test_behind_a_tls_proxy_on_this_machine_the_cookie_is_secure(
    node: Node, client: httpx2.Client
) -> None:
    node.add_user("night")
    client.headers["x-forwarded-proto"] = "https"
    form = client.get("/sign-in")
    jar = {name: value for name, value in client.cookies.items()}
    answer = client.post(
        "/sign-in",
        data={"name": "night", "password": PASSWORD, "csrf": token_in(form), "to": "/"},
        headers={"cookie": "; ".join(f"{name}={value}" for name, value in jar.items())}
        if jar
        else {"cookie": form.headers["set-cookie"].partition(";")[0]},
    )
    assert "; secure" in answer.headers.get_list("set-cookie")[0].lower()


def test_the_database_holds_neither_password_nor_session_token(
    node: Node, client: httpx2.Client
) -> None:
    node.add_user("night")
    sign_in(client, "night")
    token = client.cookies[f"limner_{node.settings.web.port}"]
    data = (node.settings.node.data / "limner.sqlite").read_bytes()
    log = node.settings.node.data / "limner.sqlite-wal"
    data += log.read_bytes() if log.exists() else b""
    assert b"night" in data
    assert token.encode() not in data
    assert PASSWORD.encode() not in data


def test_wrong_passwords_and_unknown_names_get_the_same_answer(
    node: Node, client: httpx2.Client
) -> None:
    node.add_user("night")
    wrong = sign_in(client, "night", "not the password")
    unknown = sign_in(client, "nobody", "not the password")
    assert wrong.status_code == unknown.status_code == 401
    text = wrong.text.replace(token_in(wrong), "").replace("night", "")
    assert text == unknown.text.replace(token_in(unknown), "").replace("nobody", "")


def test_an_unknown_name_costs_a_verification_too() -> None:
    assert not verify_password(PASSWORD, None)
    assert not verify_password("", None)


def test_five_wrong_passwords_lock_the_account_even_for_the_right_one(
    node: Node, client: httpx2.Client
) -> None:
    node.add_user("night")
    for _ in range(5):
        assert sign_in(client, "night", "not the password").status_code == 401
    assert sign_in(client, "night").status_code == 401
    set_clock_offset(node.engine, HOUR_MS)
    assert sign_in(client, "night").status_code == 303


def test_a_session_ends_after_its_hours(node: Node, operator: httpx2.Client) -> None:
    assert operator.get("/").status_code == 200
    set_clock_offset(node.engine, 13 * HOUR_MS)
    assert operator.get("/").status_code == 303


def test_signing_out_ends_the_session_in_the_database(node: Node, operator: httpx2.Client) -> None:
    cookie = f"limner_{node.settings.web.port}"
    token = operator.cookies[cookie]
    operator.post("/sign-out", data={"csrf": token_in(operator.get("/"))})
    stolen = operator.get("/", headers={"cookie": f"{cookie}={token}"})
    assert stolen.status_code == 303


def test_a_disabled_person_is_out_at_once(node: Node, operator: httpx2.Client) -> None:
    with writing(node.engine) as db:
        user = users.find_user(db, "night")
        assert user is not None
        users.disable(db, user.id)
    assert operator.get("/").status_code == 303
    assert sign_in(operator, "night").status_code == 401


def test_a_sign_in_without_the_forms_token_is_refused(node: Node, client: httpx2.Client) -> None:
    node.add_user("night")
    client.get("/sign-in")
    answer = client.post("/sign-in", data={"name": "night", "password": PASSWORD})
    assert answer.status_code == 403


def test_sign_ins_are_audited_without_what_strangers_typed(
    node: Node, client: httpx2.Client
) -> None:
    node.add_user("night")
    sign_in(client, "typed-my-password-here", "x")
    sign_in(client, "night", "wrong")
    sign_in(client, "night")
    with reading(node.engine) as db:
        rows = audit.list_audit(db)
    assert [(row.who, row.act) for row in rows] == [
        ("night", "sign-in"),
        ("night", "sign-in failed"),
        ("unknown", "sign-in failed"),
    ]
    assert not any("typed-my-password" in repr(row) for row in rows)


@pytest.mark.parametrize("password", ["short", "x" * (SHORTEST - 1), "a" * 20, "abc" * 100])
def test_weak_passwords_are_refused_with_a_sentence(password: str) -> None:
    assert check_policy(password).endswith(".")
    with pytest.raises(SetupError):
        hash_password(password)


def test_a_hash_is_argon2id_and_fits_its_password_alone() -> None:
    stored = hash_password(PASSWORD)
    assert stored.startswith("$argon2id$")
    assert verify_password(PASSWORD, stored)
    assert not verify_password(PASSWORD + "x", stored)
    assert not verify_password("x" * 5000, stored)
    assert not verify_password(PASSWORD, "not a hash")


def test_only_administrators_see_the_audit(node: Node, operator: httpx2.Client) -> None:
    assert operator.get("/audit").status_code == 403
    node.add_user("chief", Role.ADMIN)
    with writing(node.engine) as db:
        audit.record(db, "chief", "release", "study 1.2.3")
    operator.cookies.update(node.open_session("chief"))
    page = operator.get("/audit")
    assert page.status_code == 200
    assert "study 1.2.3" in page.text
    assert "whole" in page.text


def test_the_pages_never_import_a_model_or_a_codec() -> None:
    heavy = ("torch", "highdicom", "pynetdicom", "imagecodecs", "scipy")
    code = f"import sys, node.web.serve;print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
