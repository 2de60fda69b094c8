"""`limner`: the face of the node. Groups the commands and turns trouble into one clear answer.

Exit codes: 0 done; 1 the thing asked for is not so (a check failed, a study was refused); 2 the
call or the configuration is wrong; 3 the node's surroundings fail (database, disk, peer).
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from node.errors import LimnerError, SetupError
from storage.errors import StorageError

COMMANDS: Final = {
    "init": "setup",
    "check": "setup",
    "migrate": "setup",
    "run": "processes",
    "listen": "processes",
    "schedule": "processes",
    "work": "processes",
    "deliver": "processes",
    "web": "processes",
    "demo": "demo",
    "segment": "imaging",
    "inspect": "imaging",
    "explain": "look",
    "export": "received",
    "status": "look",
    "studies": "look",
    "study": "look",
    "instances": "received",
    "associations": "associations",
    "conflicts": "conflicts",
    "jobs": "look",
    "deliveries": "look",
    "models": "models",
    "train": "models",
    "evaluate": "models",
    "peers": "peers",
    "routes": "peers",
    "requeue": "act",
    "resend": "act",
    "cancel": "act",
    "release": "act",
    "users": "act",
}
"""Command -> module of `node.commands`; read when the command is called, so that `limner --help`
and the listener never pay for torch."""

_SHORT: Final = {
    "init": "Make a folder with a documented limner.toml and an empty database.",
    "check": "Read the configuration, models, database and peers, and tell every fault.",
    "migrate": "Bring the database to this version's tables.",
    "run": "Run the whole node: listen, schedule, work, deliver, web.",
    "listen": "Run the DICOM listener alone.",
    "schedule": "Run the scheduler alone.",
    "work": "Run a segment worker alone.",
    "deliver": "Run the network worker alone.",
    "web": "Run the pages alone.",
    "demo": "Send a phantom chest CT through a whole node and check what comes back.",
    "segment": "Segment a folder of DICOM files without a node.",
    "inspect": "Say what volumes a folder of DICOM files holds, or why none.",
    "explain": "Say what every route would do with a folder of DICOM files.",
    "export": "Write what the node holds of a study as DICOM files.",
    "status": "Say how the node is, in one screen.",
    "studies": "List studies.",
    "study": "Tell the whole story of one study.",
    "instances": "List the instances that the node holds.",
    "associations": "List who called, and what came of it.",
    "conflicts": "List instances that came again with other content; say which counts.",
    "jobs": "List jobs.",
    "deliveries": "List what is owed to peers, and what they answered.",
    "models": "List, show, import and check models.",
    "train": "Train a model from phantoms or from cases with references.",
    "evaluate": "Score a model on phantoms, held-out cases or a study with a reference.",
    "peers": "List, try, pause and resume peers; accept callers that were refused.",
    "routes": "List routes.",
    "requeue": "Run a finished, failed or cancelled job again.",
    "resend": "Send a result to its peer again.",
    "cancel": "Take a job out.",
    "release": "Let a held study go on.",
    "users": "Add and list the people who may sign in.",
}


class _Face(click.Group):
    """The group of all commands, imported one by one when they are called."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"node.commands.{COMMANDS[name]}")
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _SHORT[name]) for name in COMMANDS])


@click.group(cls=_Face, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="limner")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Limner: segmentation models between scanners and the PACS. For research use.

    \b
    Two commands to begin with:
      limner demo            a phantom study through the whole line
      limner init FOLDER     a node of your own

    Each command has --help with an example, and --json where it prints data.
    Exit codes: 0 done, 1 not so, 2 wrong call or configuration, 3 surroundings fail.
    """


def main() -> None:
    """Run the command line; print faults as sentences unless --debug asks for tracebacks."""
    debug = "--debug" in sys.argv
    if debug:
        cli()
    try:
        cli()
    except LimnerError as error:
        fault = error.fault
        _say(fault.what, fault.where, fault.remedy, fault.code)
        sys.exit(2 if isinstance(error, SetupError) else 3)
    except StorageError as error:
        _say(error.what, error.where, error.remedy, error.code)
        sys.exit(3)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  outermost: a person gets a sentence, --debug the traceback
        _say(
            f"An unforeseen fault: {type(error).__name__}: {error}.",
            f"limner {' '.join(sys.argv[1:2])}",
            "This is a fault of the program. Call it again with `limner --debug ...` and report "
            "what it prints.",
            "bug",
        )
        sys.exit(3)


def _say(what: str, where: str, remedy: str, code: str) -> None:
    click.echo(
        f"limner: {what.rstrip()}\n  where: {where}\n  to do: {remedy}\n  [{code}]", err=True
    )


if __name__ == "__main__":
    main()
