"""limner.toml is read strictly, and every mistake is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import SetupError
from node.settings import Condition, bundled_config, load_settings


def written(folder: Path, text: str) -> Path:
    path = folder / "limner.toml"
    path.write_text(text, encoding="utf-8")
    return path


PEERS = """
[[peers]]
name = "ct1"
ae_title = "CT1"
may = ["store"]

[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 104
takes = ["SEG"]
"""


def test_the_documented_example_is_itself_valid(tmp_path: Path) -> None:
    text = (bundled_config() / "limner.toml").read_text(encoding="utf-8")
    uncommented = "\n".join(
        line[2:] if line.startswith("# ") and ("=" in line or line.startswith("# [")) else line
        for line in text.splitlines()
        if "password_file" not in line and not line.startswith("# limner.toml")
    )
    plain = load_settings(written(tmp_path, text))
    full = load_settings(written(tmp_path, uncommented))
    assert plain.peers == ()
    assert [peer.name for peer in full.peers] == ["ct1", "pacs"]
    assert full.routes[0].when[1] == Condition("SliceThickness", "at_most", 5.0)


def test_all_mistakes_are_told_in_one_answer_with_their_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[listener]\nprot = 11112\nae_title = "MUCH TOO LONG A TITLE"\n\n[nod]\nname = "x"\n'
        '[web]\nport = "8180"\n',
    )
    with pytest.raises(SetupError) as caught:
        load_settings(path)
    text = str(caught.value)
    assert "line 2: listener.prot: unknown key; did you mean 'port'?" in text
    assert "line 3: listener.ae_title" in text
    assert "line 5: [nod]: unknown table; did you mean 'node'?" in text
    assert "line 8: web.port: must be a whole number" in text
    assert "4 mistakes" in text


def test_a_route_to_a_peer_that_does_not_exist_is_a_mistake(tmp_path: Path) -> None:
    path = written(tmp_path, PEERS + '[[routes]]\nname="r"\nmodel="m"\nsend_to=["pax"]\n')
    with pytest.raises(SetupError, match="route 'r' names the peer 'pax'"):
        load_settings(path)


def test_a_route_to_a_peer_that_takes_nothing_is_a_mistake(tmp_path: Path) -> None:
    path = written(tmp_path, PEERS + '[[routes]]\nname="r"\nmodel="m"\nsend_to=["ct1"]\n')
    with pytest.raises(SetupError, match="takes nothing"):
        load_settings(path)


def test_two_callers_with_one_ae_title_are_a_mistake(tmp_path: Path) -> None:
    again = '[[peers]]\nname = "ct2"\nae_title = "CT1"\nmay = ["store"]\n'
    with pytest.raises(SetupError, match="AE title 'CT1'"):
        load_settings(written(tmp_path, PEERS + again))


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('Modalty = "CT"', "not a DICOM keyword"),
        ("SliceThickness = { at_most = '5' }", "wants a number"),
        ("Modality = { is = 'CT' }", "unknown operator 'is'"),
        ("Modality = { one_of = 'CT' }", "list of texts"),
        ("Modality = { present = 'yes' }", "true or false"),
    ],
)
def test_a_condition_that_cannot_hold_is_a_mistake(tmp_path: Path, line: str, word: str) -> None:
    text = PEERS + f'[[routes]]\nname="r"\nmodel="m"\n[routes.when]\n{line}\n'
    with pytest.raises(SetupError, match=word):
        load_settings(written(tmp_path, text))


def test_files_in_limner_d_add_peers_and_change_the_digest(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    alone = load_settings(path)
    (tmp_path / "limner.d").mkdir()
    (tmp_path / "limner.d" / "pacs.toml").write_text(PEERS, encoding="utf-8")
    both = load_settings(path)
    assert [peer.name for peer in both.peers] == ["ct1", "pacs"]
    assert both.digest != alone.digest


def test_a_password_in_the_url_is_refused_and_one_in_a_file_is_used(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("p@ss\n", encoding="utf-8")
    url = '[storage]\ndatabase = "postgresql+psycopg://limner{}@db/limner"\n'
    with pytest.raises(SetupError, match="must not contain a password"):
        load_settings(written(tmp_path, url.format(":x")))
    settings = load_settings(written(tmp_path, url.format("") + 'password_file = "secret"\n'))
    assert settings.storage.database_url == "postgresql+psycopg://limner:p%40ss@db/limner"
    assert "p@ss" not in settings.text
