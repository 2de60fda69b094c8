"""The command line: help that teaches, exit codes, JSON, and errors as sentences."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from running_node import CHEST

from node.cli import COMMANDS, cli
from node.phantom.damage import Damage, damaged
from node.phantom.study import make_study, write_study


def limner(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
    )


def all_commands() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", each) for sub, each in command.commands.items()]
    return found


@pytest.mark.parametrize(("name", "command"), all_commands(), ids=lambda value: str(value)[:24])
def test_every_command_has_help_with_an_example_of_itself(
    name: str, command: click.Command
) -> None:
    text = command.help or ""
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith("limner ")]
    assert examples, f"{name} has no example"
    assert any(line.startswith(f"limner {name}") for line in examples)
    # Every example can be parsed: its words are commands and options that exist.
    for line in examples:
        words = re.split(r"\s+", line)[1:]
        target: click.Command = cli
        while isinstance(target, click.Group) and words and not words[0].startswith("-"):
            word = words.pop(0)
            found = target.get_command(click.Context(target), word)
            assert found is not None, line
            target = found
        options = {option for parameter in target.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "node1"
    made = limner("init", str(folder))
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def folder(tmp_path: Path, made_once: Path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "node1"))


def test_init_makes_a_node_that_check_accepts(folder: Path) -> None:
    good = limner("check", "--config", str(folder / "limner.toml"))
    assert good.returncode == 0, good.stdout
    assert "all good" in good.stdout


def test_init_never_overwrites(folder: Path) -> None:
    again = limner("init", str(folder))
    assert again.returncode == 2
    assert "nothing was changed" in again.stderr


def test_a_mistake_in_the_configuration_is_a_sentence_and_not_a_traceback(folder: Path) -> None:
    config = folder / "limner.toml"
    config.write_text(config.read_text() + '\n[[routes]]\nname = "r"\nmodle = "lung-ct"\n')
    answer = limner("status", "--config", str(config))
    assert answer.returncode == 2
    assert "did you mean 'model'?" in answer.stderr
    assert "line " in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "Traceback" in limner("--debug", "status", "--config", str(config)).stderr


def test_check_names_a_route_to_a_model_that_is_not_there(folder: Path) -> None:
    config = folder / "limner.toml"
    config.write_text(config.read_text() + '\n[[routes]]\nname = "r"\nmodel = "lungs"\n')
    answer = limner("check", "--json", "--config", str(config))
    assert answer.returncode == 1
    said = json.loads(answer.stdout)
    assert said["schema"] == 1
    assert "there is no model 'lungs'" in said["faults"][0]


def test_a_database_that_is_away_is_exit_code_3(folder: Path) -> None:
    config = folder / "limner.toml"
    text = config.read_text().replace(
        'database = "sqlite" ', 'database = "postgresql+psycopg://nobody@127.0.0.1:1/none" '
    )
    config.write_text(text)
    answer = limner("studies", "--config", str(config))
    assert answer.returncode == 3
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("studies",),
        ("instances",),
        ("associations",),
        ("conflicts",),
        ("jobs",),
        ("deliveries",),
        ("peers", "list"),
        ("peers", "refused"),
        ("routes",),
        ("users", "list"),
    ],
    ids=" ".join,
)
def test_everything_that_prints_data_prints_it_as_json_too(
    folder: Path, words: tuple[str, ...]
) -> None:
    answer = limner(*words, "--json", "--config", str(folder / "limner.toml"))
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["schema"] == 1


def test_an_empty_node_says_in_words_that_it_is_empty(folder: Path) -> None:
    answer = limner("studies", "--config", str(folder / "limner.toml"))
    assert (answer.returncode, answer.stdout) == (0, "No study fits.\n")


def test_a_person_is_added_with_a_password_from_standard_input_only(folder: Path) -> None:
    config = str(folder / "limner.toml")
    command = [sys.executable, "-m", "node.cli", "users", "add", "anna", "--role", "admin"]
    command += ["--password-stdin", "--config", config]
    weak = subprocess.run(command, input="short\n", text=True, capture_output=True, check=False)
    assert weak.returncode == 2
    good = subprocess.run(
        command, input="four words in a row\n", text=True, capture_output=True, check=False
    )
    assert good.returncode == 0, good.stderr
    assert "anna" in limner("users", "list", "--config", config).stdout


def test_inspect_says_what_a_folder_holds_and_exits_1_when_nothing_is_usable(
    tmp_path: Path,
) -> None:
    study = make_study(7, CHEST)
    write_study(tmp_path / "good", study)
    answer = limner("inspect", str(tmp_path / "good"), "--json")
    assert answer.returncode == 0
    (volume,) = json.loads(answer.stdout)["volumes"]
    assert volume["shape"] == [36, 128, 128]
    assert volume["units"] == "HU"
    write_study(tmp_path / "bad", damaged(study, Damage.MISSING_SLICE))
    answer = limner("inspect", str(tmp_path / "bad"))
    assert answer.returncode == 1
    assert "missing-slices" in answer.stdout


def test_explain_says_what_each_route_would_do(folder: Path, tmp_path: Path) -> None:
    config = folder / "limner.toml"
    config.write_text(
        config.read_text()
        + '\n[[routes]]\nname = "r"\nmodel = "lung-ct"\n[routes.when]\nModality = "CT"\n'
    )
    write_study(tmp_path / "study", make_study(7, CHEST))
    answer = limner("explain", str(tmp_path / "study"), "--json", "--config", str(config))
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["decisions"][0]["outcome"] == "run"


def test_limner_help_imports_neither_torch_nor_the_database() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom node.cli import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        "sys.exit(bool({'torch', 'sqlalchemy', 'pynetdicom'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
