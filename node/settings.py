"""limner.toml (and limner.d/*.toml beside it) as frozen values; the only form the node sees.

Strict: see `strict_toml`. Secrets come from files (`*_file`) or the environment, never from the
text itself. `Settings.text` and `Settings.digest` describe the configuration in force without
secrets, so that every decision can name what it was made under.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydicom.datadict import tag_for_keyword

from node.errors import setup_error
from node.strict_toml import Document, Mistakes, Table

AE_TITLE_MAX: Final = 16  # PS3.5 table 6.2-1, VR AE
MAY: Final = ("echo", "store", "find", "move", "commit")
TAKES: Final = ("SEG", "SR")
"""Result kinds that a peer can be sent; grows with what `results` writes."""
RUNTIMES: Final = ("auto", "torch", "openvino")
"""What runs networks; `auto` takes the fastest that keeps a model's labels on its test case."""
PROOFS: Final = ("commitment", "lookup", "none")
ON_REVIEW: Final = ("send", "send-marked", "hold", "drop")
ON_REJECT: Final = ("drop", "hold", "send-marked")
"""What a route does with a result that its verdict does not accept."""
ON_CONFLICT: Final = ("first", "last", "hold")
OPERATORS: Final = (
    "equals",
    "not",
    "one_of",
    "contains",
    "lacks",
    "like",
    "at_least",
    "at_most",
    "present",
)
REMEDY: Final = "config/limner.toml shows every key with an example; `limner check` reads it again."
PASSWORD_VARIABLE: Final = "LIMNER_DATABASE_PASSWORD"  # noqa: S105  a name, not a secret

Scalar = str | float | bool


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a series header.

    Attributes:
        keyword: DICOM keyword (PS3.6), such as `Modality`.
        operator: One of `OPERATORS`.
        value: A text, a number, true/false (`present`) or several texts (`one_of`).
    """

    keyword: str
    operator: str
    value: Scalar | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """A configured AE.

    Attributes:
        name: What routes, pages and logs call it.
        ae_title: Its AE title.
        host: Where we reach it; empty if we never call it.
        port: Its port; 0 if we never call it.
        may: What it may do to us, of `MAY`.
        takes: Result kinds that we send to it, of `TAKES`.
        proof: How a delivery to it ends: storage commitment, a C-FIND look-up, or its answer.
        addresses: IP networks it may call from; empty for any.
        certificates: Names of which its TLS certificate must have one; empty for any.
        tls: Whether it must call over TLS.
    """

    name: str
    ae_title: str
    host: str
    port: int
    may: frozenset[str]
    takes: tuple[str, ...]
    proof: str
    addresses: tuple[str, ...]
    certificates: tuple[str, ...] = ()
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """Conditions -> model -> peers.

    Attributes:
        on_review: What is done with a result that a person should look at: `send`, `send-marked`
            (its series description begins with REVIEW), `hold` (until a person releases it) or
            `drop` (kept here, sent to nobody).
        on_reject: Likewise for a result that is rejected: `drop`, `hold` or `send-marked`.
    """

    name: str
    model: str
    when: tuple[Condition, ...]
    peers_from: tuple[str, ...]
    send_to: tuple[str, ...]
    priority: int
    on_review: str = "send"
    on_reject: str = "drop"

    def policy(self, verdict: str) -> str:
        """Return what is done with a result of this verdict: `accept`, `review` or `reject`."""
        return {"review": self.on_review, "reject": self.on_reject}.get(verdict, "send")

    @property
    def marks(self) -> tuple[str, ...]:
        """The verdicts whose results carry a mark; part of what makes a result."""
        both = ("review", "reject")
        return tuple(verdict for verdict in both if self.policy(verdict) == "send-marked")


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """[node]: name, place of everything, time zone of the pages, quiet period."""

    name: str
    data: Path
    time_zone: str
    quiet_s: float


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """[storage]: where rows and bytes are kept.

    Attributes:
        journal_mb: Size of one segment of the journal that received instances go to.
        journal_ahead: Segments that are kept ready, written full of zeros.
        on_conflict: Which bytes count when other ones come under a known SOP Instance UID.
    """

    database_url: str
    objects: Path
    reserve_mb: int
    journal_mb: int
    journal_ahead: int
    on_conflict: str


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """[listener]: the DICOM SCP that peers call.

    Attributes:
        processes: Processes that accept on the port.
        max_per_address: Associations open at once from one IP address; 0 is no limit.
        request_s: From a connection to its association request, TLS included.
        idle_s: An association without a message for so long is ended.
        stall_s: For the next PDU within a message, and for a peer to take an answer.
        object_mb: Largest data set that is taken.
        open: Takes anybody's instances; for development alone.
        sop_classes: Storage SOP classes that are taken; empty for all of the Standard.
        transfer_syntaxes: Transfer syntaxes that are taken; empty for all but deflated.
        tls_port: Where DICOM over TLS is served; 0 for nowhere.
        tls_cert_file: PEM file of our certificate, with its chain; likewise its key.
        tls_ca_file: PEM file of the authorities that sign the certificates of peers.
    """

    host: str
    port: int
    ae_title: str
    processes: int
    max_associations: int
    max_per_address: int
    max_pdu: int
    request_s: float
    idle_s: float
    stall_s: float
    object_mb: int
    accept_unknown_classes: bool
    open: bool
    sop_classes: tuple[str, ...]
    transfer_syntaxes: tuple[str, ...]
    tls_port: int
    tls_cert_file: Path | None
    tls_key_file: Path | None
    tls_ca_file: Path | None


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """[worker]: devices, leases and where models lie.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        runtime: What runs networks, of `RUNTIMES`.
    """

    device: str
    runtime: str
    threads: int
    lease_s: float
    max_attempts: int
    models: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """[delivery]: retries and proof."""

    retry_first_s: float
    retry_longest_s: float
    expire_h: float
    commitment_wait_s: float


@dataclass(frozen=True, slots=True)
class WebSettings:
    """[web]: the pages."""

    enabled: bool
    host: str
    port: int
    session_h: float


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration.

    Attributes:
        path: The limner.toml it came from.
        text: The configuration as read, without secrets.
        digest: SHA-256 of `text`, hex.
    """

    path: Path
    node: NodeSettings
    storage: StorageSettings
    listener: ListenerSettings
    worker: WorkerSettings
    delivery: DeliverySettings
    web: WebSettings
    peers: tuple[Peer, ...]
    routes: tuple[Route, ...]
    text: str
    digest: str

    def peer(self, name: str) -> Peer | None:
        """Return the peer of that name."""
        return next((peer for peer in self.peers if peer.name == name), None)

    def route(self, name: str) -> Route | None:
        """Return the route of that name."""
        return next((route for route in self.routes if route.name == name), None)


def bundled_config() -> Path:
    """Return the folder with the documented limner.toml and the bundled models."""
    installed = Path(__file__).parent / "bundled" / "config"
    return installed if installed.exists() else Path(__file__).parents[1] / "config"


def load_settings(path: Path) -> Settings:
    """Read limner.toml and limner.d/*.toml beside it.

    Raises:
        SetupError: The file is absent, or has mistakes; all of them are told with their lines.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise setup_error(
            "settings-unreadable",
            f"The configuration cannot be read: {error}.",
            where=str(path),
            remedy="Make one with `limner init FOLDER`, or name it with --config FILE.",
        ) from error
    settings = parse_settings(text, path=path)
    for extra in sorted((path.parent / "limner.d").glob("*.toml")):
        settings = _merged(settings, extra)
    _check_references(settings)
    return settings


def parse_settings(text: str, *, path: Path) -> Settings:
    """Return the settings in the text of one limner.toml; relative paths start at its folder.

    Raises:
        SetupError: As `load_settings`, except for references between peers and routes.
    """
    mistakes = Mistakes(path.name)
    document = Document(text, mistakes)
    base = path.resolve().parent
    node = _node(document.table("node"), base)
    settings = Settings(
        path=path,
        node=node,
        storage=_storage(document.table("storage"), base, node.data),
        listener=_listener(document.table("listener"), base),
        worker=_worker(document.table("worker"), base),
        delivery=_delivery(document.table("delivery")),
        web=_web(document.table("web")),
        peers=_peers(document.tables("peers")),
        routes=_routes(document.tables("routes")),
        text=text,
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )
    document.finish(("node", "storage", "listener", "worker", "delivery", "web", "peers", "routes"))
    mistakes.raise_if_any("settings-invalid", REMEDY)
    return settings


def read_conditions(table: Table) -> tuple[Condition, ...]:
    """Return the conditions of a `when` or `accepts` table, noting mistakes in it.

    `Modality = "CT"` means equals; `SliceThickness = { at_most = 5 }` names its operator.
    Keywords are those of PS3.6, and `NumberOfSeriesRelatedInstances` counts what was received.
    """
    found: list[Condition] = []
    for keyword, value in table.rest().items():
        if tag_for_keyword(keyword) is None:
            table.note(keyword, "is not a DICOM keyword (PS3.6), such as Modality")
            continue
        wanted = value if isinstance(value, dict) else {"equals": value}
        for operator, operand in wanted.items():
            condition = _condition(keyword, operator, operand)
            if isinstance(condition, str):
                table.note(keyword, condition)
            else:
                found.append(condition)
    return tuple(found)


def _condition(keyword: str, operator: str, operand: object) -> Condition | str:
    if operator not in OPERATORS:
        return f"unknown operator '{operator}'; there are {', '.join(OPERATORS)}"
    if operator == "one_of":
        if isinstance(operand, list) and operand and all(isinstance(o, str) for o in operand):
            return Condition(keyword, operator, tuple(operand))
        return 'one_of wants a list of texts, such as ["CHEST", "THORAX"]'
    if operator in ("at_least", "at_most"):
        if isinstance(operand, int | float) and not isinstance(operand, bool):
            return Condition(keyword, operator, float(operand))
        return f"{operator} wants a number, is {operand!r}"
    if operator == "present":
        return (
            Condition(keyword, operator, operand)
            if isinstance(operand, bool)
            else f"present wants true or false, is {operand!r}"
        )
    if isinstance(operand, str | int | float) and not isinstance(operand, bool):
        return Condition(keyword, operator, str(operand))
    return f"{operator} wants a text, is {operand!r}"


def _node(table: Table, base: Path) -> NodeSettings:
    zone = table.string("time_zone", "UTC")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        table.note("time_zone", f"must be an IANA zone such as Europe/Berlin, is {zone!r}")
    settings = NodeSettings(
        name=table.string("name", "limner", longest=16),
        data=base / table.string("data", "data"),
        time_zone=zone,
        quiet_s=table.number("quiet_s", 0.2, 86_400, 60.0),
    )
    table.finish()
    return settings


def _storage(table: Table, base: Path, data: Path) -> StorageSettings:
    database = table.string("database", "sqlite")
    password_file = table.string("password_file", "")
    if database == "sqlite":
        database = f"sqlite:///{data / 'limner.sqlite'}"
    elif not database.startswith(("postgresql+psycopg://", "sqlite:///")):
        table.note(
            "database",
            'must be "sqlite" or "postgresql+psycopg://USER@HOST/DATABASE", is ' + repr(database),
        )
    if "postgresql" in database:
        database = _with_password(table, database, base, password_file)
    objects = table.string("objects", "")
    settings = StorageSettings(
        database_url=database,
        objects=base / objects if objects else data / "objects",
        reserve_mb=table.integer("reserve_mb", 0, 10_000_000, 2_000),
        journal_mb=table.integer("journal_mb", 4, 16_384, 128),
        journal_ahead=table.integer("journal_ahead", 0, 64, 2),
        on_conflict=table.choice("on_conflict", ON_CONFLICT, "first"),
    )
    table.finish()
    return settings


def _with_password(table: Table, url: str, base: Path, password_file: str) -> str:
    rest = url.partition("://")[2]
    user = rest.partition("@")[0]
    if "@" in rest and ":" in user:
        table.note(
            "database",
            f"must not contain a password; use password_file or the variable {PASSWORD_VARIABLE}",
        )
    password = os.environ.get(PASSWORD_VARIABLE, "")
    if password_file:
        try:
            password = (base / password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            table.note("password_file", f"cannot be read: {error}")
    return url.replace("@", f":{quote(password, safe='')}@", 1) if password else url


def _listener(table: Table, base: Path) -> ListenerSettings:
    settings = ListenerSettings(
        host=table.string("host", "0.0.0.0"),  # noqa: S104  peers are checked by AE title and address
        port=table.integer("port", 1, 65_535, 11_112),
        ae_title=_ae_title(table, "ae_title", "LIMNER"),
        processes=table.integer("processes", 1, 32, 1),
        max_associations=table.integer("max_associations", 1, 500, 50),
        max_per_address=table.integer("max_per_address", 0, 500, 0),
        max_pdu=table.integer("max_pdu", 4_096, 1 << 20, 131_072),
        request_s=table.number("request_s", 1, 300, 10),
        idle_s=table.number("idle_s", 1, 86_400, 120),
        stall_s=table.number("stall_s", 1, 3_600, 30),
        object_mb=table.integer("object_mb", 1, 1_000_000, 4_096),
        accept_unknown_classes=table.flag("accept_unknown_classes", default=False),
        open=table.flag("open", default=False),
        sop_classes=_uids(table, "sop_classes"),
        transfer_syntaxes=_uids(table, "transfer_syntaxes"),
        tls_port=table.integer("tls_port", 0, 65_535, 0),
        tls_cert_file=_file(table, "tls_cert_file", base),
        tls_key_file=_file(table, "tls_key_file", base),
        tls_ca_file=_file(table, "tls_ca_file", base),
    )
    if settings.tls_port:
        files = (settings.tls_cert_file, settings.tls_key_file, settings.tls_ca_file)
        if not all(files):
            table.note("tls_port", "wants tls_cert_file, tls_key_file and tls_ca_file")
        if settings.tls_port == settings.port:
            table.note("tls_port", "must be another port than port")
    table.finish()
    return settings


def _uids(table: Table, key: str) -> tuple[str, ...]:
    uids = table.strings(key, [])
    for uid in uids:
        if not uid or uid.strip("0123456789."):
            table.note(key, f"'{uid}' is not a UID")
    return uids


def _file(table: Table, key: str, base: Path) -> Path | None:
    text = table.string(key, "")
    return base / text if text else None


def _worker(table: Table, base: Path) -> WorkerSettings:
    folders = table.strings("models", ["models"])
    settings = WorkerSettings(
        device=table.choice("device", ("auto", "cpu", "cuda"), "auto"),
        runtime=table.choice("runtime", RUNTIMES, "auto"),
        threads=table.integer("threads", 0, 256, 0),
        lease_s=table.number("lease_s", 1, 3_600, 60),
        max_attempts=table.integer("max_attempts", 1, 20, 3),
        models=(*(base / folder for folder in folders), bundled_config() / "models"),
    )
    table.finish()
    return settings


def _delivery(table: Table) -> DeliverySettings:
    settings = DeliverySettings(
        retry_first_s=table.number("retry_first_s", 0.1, 3_600, 30),
        retry_longest_s=table.number("retry_longest_s", 0.1, 86_400, 3_600),
        expire_h=table.number("expire_h", 0.001, 8_760, 72),
        commitment_wait_s=table.number("commitment_wait_s", 1, 86_400, 600),
    )
    table.finish()
    return settings


def _web(table: Table) -> WebSettings:
    settings = WebSettings(
        enabled=table.flag("enabled", default=True),
        host=table.string("host", "127.0.0.1"),
        port=table.integer("port", 1, 65_535, 8_180),
        session_h=table.number("session_h", 0.1, 720, 12),
    )
    table.finish()
    return settings


def _peers(tables: Sequence[Table]) -> tuple[Peer, ...]:
    peers = []
    for table in tables:
        takes = table.strings("takes", [], choices=TAKES)
        peer = Peer(
            name=table.string("name", longest=64),
            ae_title=_ae_title(table, "ae_title", None),
            host=table.string("host", ""),
            port=table.integer("port", 0, 65_535, 0),
            may=frozenset(table.strings("may", [], choices=MAY)),
            takes=takes,
            proof=table.choice("proof", PROOFS, "commitment"),
            addresses=table.strings("addresses", []),
            certificates=table.strings("certificates", []),
            tls=table.flag("tls", default=False),
        )
        if peer.certificates and not peer.tls:
            table.note("certificates", "are looked at only with tls = true")
        if takes and not (peer.host and peer.port):
            table.note("takes", "we can send to this peer only with its host and port")
        for address in peer.addresses:
            try:
                ipaddress.ip_network(address, strict=False)
            except ValueError:
                table.note("addresses", f"'{address}' is not an IP address or network")
        table.finish()
        peers.append(peer)
    return tuple(peers)


def _routes(tables: Sequence[Table]) -> tuple[Route, ...]:
    routes = []
    for table in tables:
        when = table.table("when")
        routes.append(
            Route(
                name=table.string("name", longest=64),
                model=table.string("model"),
                when=read_conditions(when),
                peers_from=table.strings("from", []),
                send_to=table.strings("send_to", []),
                priority=table.integer("priority", -100, 100, 0),
                on_review=table.choice("on_review", ON_REVIEW, "send"),
                on_reject=table.choice("on_reject", ON_REJECT, "drop"),
            )
        )
        table.finish()
    return tuple(routes)


def _ae_title(table: Table, key: str, default: str | None) -> str:
    value = table.string(key, default)
    if len(value) > AE_TITLE_MAX or "\\" in value or not value.isascii() or value != value.strip():
        table.note(key, f"must be an AE title of 1 to 16 plain characters, is {value!r}")
    return value


def _merged(settings: Settings, extra: Path) -> Settings:
    """Add the peers and routes of one file in limner.d."""
    try:
        text = extra.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise setup_error(
            "settings-unreadable", f"Cannot be read: {error}.", where=str(extra), remedy=REMEDY
        ) from error
    mistakes = Mistakes(f"limner.d/{extra.name}")
    document = Document(text, mistakes)
    peers = _peers(document.tables("peers"))
    routes = _routes(document.tables("routes"))
    document.finish(("peers", "routes"))
    mistakes.raise_if_any("settings-invalid", REMEDY)
    whole = f"{settings.text}\n# limner.d/{extra.name}\n{text}"
    return Settings(
        path=settings.path,
        node=settings.node,
        storage=settings.storage,
        listener=settings.listener,
        worker=settings.worker,
        delivery=settings.delivery,
        web=settings.web,
        peers=settings.peers + peers,
        routes=settings.routes + routes,
        text=whole,
        digest=hashlib.sha256(whole.encode()).hexdigest(),
    )


def _check_references(settings: Settings) -> None:
    mistakes = Mistakes(settings.path.name)
    names = [peer.name for peer in settings.peers]
    for what, all_names in (("peers", names), ("routes", [r.name for r in settings.routes])):
        for name in sorted({n for n in all_names if all_names.count(n) > 1}):
            mistakes.note(0, f"two {what} are called '{name}'; names must differ")
    callers = [peer.ae_title for peer in settings.peers if peer.may]
    for title in sorted({t for t in callers if callers.count(t) > 1}):
        mistakes.note(0, f"two peers that may call us have the AE title '{title}'")
    for route in settings.routes:
        for name in (*route.peers_from, *route.send_to):
            if name not in names:
                known = ", ".join(names) or "none are configured"
                mistakes.note(0, f"route '{route.name}' names the peer '{name}'; peers: {known}")
        for name in route.send_to:
            peer = settings.peer(name)
            if peer is not None and not peer.takes:
                mistakes.note(
                    0, f"route '{route.name}' sends to '{name}', which takes nothing: set takes"
                )
    mistakes.raise_if_any("settings-invalid", REMEDY)
