"""Commands that act: requeue, resend, cancel, release, users. Each leaves an audit row."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from pathlib import Path

import click

from node.commands.context import (
    config_option,
    json_option,
    open_node,
    print_json,
    print_table,
    printable,
)
from node.commands.look import study_named
from node.web.passwords import hash_password
from storage import audit
from storage import deliveries as ledger
from storage import queue as job_queue
from storage import studies as study_rows
from storage import users as user_rows
from storage.database import Connection, writing
from storage.users import Role


def who() -> str:
    """Return whom the audit names for an act at the command line."""
    return f"{getpass.getuser()} (command line)"


@click.command()
@click.argument("job", type=int)
@config_option
def requeue(job: int, config: Path) -> None:
    """Run JOB again: a failed or cancelled one, or a finished one as a new run.

    \b
    Example:
      limner requeue 12
    """
    _act(
        config,
        "requeue",
        f"job {job}",
        lambda db: job_queue.requeue(db, job) is not None,
        "There is no such job, or it is queued or running already. `limner jobs` lists them.",
    )


@click.command()
@click.argument("delivery", type=int)
@config_option
def resend(delivery: int, config: Path) -> None:
    """Send the result of DELIVERY to its peer again: the same bytes under the same UID.

    \b
    Example:
      limner resend 7
    """
    _act(
        config,
        "resend",
        f"delivery {delivery}",
        lambda db: ledger.resend(db, delivery) is not None,
        "There is no such delivery, or it is being sent now. `limner deliveries` lists them.",
    )


@click.command()
@click.argument("job", type=int)
@config_option
def cancel(job: int, config: Path) -> None:
    """Take JOB out of the queue, or stop it if it runs.

    \b
    Example:
      limner cancel 12
    """
    _act(
        config,
        "cancel",
        f"job {job}",
        lambda db: job_queue.cancel(db, job),
        "There is no such job, or it has ended. `limner jobs` lists them.",
    )


@click.command()
@click.argument("uid")
@config_option
def release(uid: str, config: Path) -> None:
    """Let the study with this Study Instance UID go on, after a look at why it is held.

    Of a study that is not held itself, the results that wait for a person are sent.

    \b
    Example:
      limner study 1.2.840.99999.1
      limner release 1.2.840.99999.1
    """
    _act(
        config,
        "release",
        f"study {printable(uid)}",
        lambda db: _release(db, study_named(db, uid).id),
        "Neither the study nor a result of it is held.",
    )


def _release(db: Connection, study_id: int) -> bool:
    return study_rows.release(db, study_id) or ledger.release_held(db, study_id)


@click.group()
def users() -> None:
    """Add and list the people who may sign in.

    \b
    Example:
      limner users add anna --role admin
    """


@users.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.VIEWER,
    show_default=True,
)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@config_option
def add(name: str, role: str, password_stdin: bool, config: Path) -> None:
    """Add NAME; the password is asked for, or read from standard input, never an argument.

    \b
    Example:
      limner users add anna --role admin
    """
    node = open_node(config)
    password = (
        sys.stdin.readline().rstrip("\n")
        if password_stdin
        else click.prompt("Password", hide_input=True, confirmation_prompt=True)
    )
    hashed = hash_password(password)
    with writing(node.engine) as db:
        user_rows.add_user(db, name, password_hash=hashed, role=Role(role))
        audit.record(db, who(), "add-user", f"user {name}", role)
    click.echo(f"Added {name} as {role}.")


@users.command(name="list")
@config_option
@json_option
def list_all(config: Path, as_json: bool) -> None:
    """List who may sign in.

    \b
    Example:
      limner users list
    """
    node = open_node(config)
    with writing(node.engine) as db:
        rows = user_rows.list_users(db)
    shown = [
        {"name": u.name, "role": u.role, "disabled": u.disabled, "created_ms": u.created_ms}
        for u in rows
    ]
    if as_json:
        print_json({"users": shown})
        return
    print_table(
        ("name", "role", "disabled"),
        [(u["name"], u["role"], "yes" if u["disabled"] else "no") for u in shown],
        empty="Nobody yet: limner users add NAME --role admin",
    )


def _act(
    config: Path, act: str, target: str, change: Callable[[Connection], bool], refused: str
) -> None:
    """Change something and audit it in one transaction; exit code 1 if nothing was changed."""
    node = open_node(config)
    with writing(node.engine) as db:
        changed = change(db)
        if changed:
            audit.record(db, who(), act, target)
    if not changed:
        click.echo(f"limner: {act} {target}: {refused}", err=True)
        sys.exit(1)
    click.echo(f"Done: {act} {target}.")
