"""The walk through "Bring a model in ten minutes" works as it is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli import cli
from node.models.card import CARD_FILE
from tests.models.builders import DOCUMENT

TITLE = "## Bring a model in ten minutes"


def blocks() -> list[tuple[str, str]]:
    """Return language and text of each block of the walk, in order."""
    text = DOCUMENT.read_text(encoding="utf-8")
    walk = text.split(TITLE, 1)[1].split("\n### ", 1)[0]
    return re.findall(r"```(python|sh|toml)\n(.*?)```", walk, re.DOTALL)


def tables(text: str) -> dict[str, str]:
    """Return each table of a card with all its text; [[...]] tables of one name together."""
    found: dict[str, str] = {}
    for part in re.split(r"^(?=\[)", text, flags=re.MULTILINE):
        if name := re.match(r"\[+([a-z]+)\]+", part):
            found[name[1]] = found.get(name[1], "") + part
    return found


def test_the_walk_from_a_training_to_a_checked_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    said = ""
    kinds = []
    for kind, text in blocks():
        kinds.append(kind)
        if kind == "python":
            exec(compile(text, "docs/models.md", "exec"), {})  # noqa: S102  our own document
        elif kind == "sh":
            for line in text.strip().splitlines():
                result = runner.invoke(cli, shlex.split(line)[1:])
                said += result.output
                assert result.exit_code == 0, f"{line}: {result.output}"
        else:
            card = tmp_path / "models" / "lesions" / CARD_FILE
            begun = card.read_text(encoding="utf-8")
            refused = runner.invoke(cli, ["models", "check", "models/lesions"])
            assert refused.exit_code == 1, "a draft that nobody finished is refused"
            head, *_ = re.split(r"^\[about\]", begun, flags=re.MULTILINE)
            written = tables(begun) | tables(text)
            card.write_text(head + "\n".join(written.values()), encoding="utf-8")
    assert kinds == ["python", "sh", "toml", "sh"]
    assert "Architecture: basic_unet" in said
    assert "about.licence" in said
    assert "all good" in said
