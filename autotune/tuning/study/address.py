"""Where a shared study is kept: a database's URL, with the password apart from the rest."""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from autotune.errors import ConfigError

# What SQLAlchemy is told for each name, and the package that has the driver. The drivers are those
# of `lcm-autotune[fleet]`; another may be named as SQLAlchemy does: mysql+mysqldb.
_DIALECTS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
_SCHEME = re.compile(r"[a-z0-9]+(\+[a-z0-9_]+)?")
_SECRET = re.compile("pass|secret|key|token", re.IGNORECASE)
# Of libpq's and PyMySQL's parameters, those that match and are names of files, not secrets.
_FILES = frozenset({"passfile", "sslkey", "ssl_key"})
_EXAMPLE = "for example postgresql://lcm@db.example/lcm or mysql://lcm@db.example/lcm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A database, as SQLAlchemy reaches it."""

    url: str  # Without the password: it can be shown.
    password: str | None = field(default=None, repr=False)

    @property
    def is_mysql(self) -> bool:
        """It is MySQL or MariaDB; otherwise it is PostgreSQL."""
        return self.url.startswith("mysql")

    @property
    def parameters(self) -> dict[str, str]:
        """What the driver is told in the URL."""
        return dict(parse_qsl(urlsplit(self.url).query))

    @property
    def where(self) -> str:
        """The database in as few words as tell it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme.partition('+')[0]}://{parts.netloc}{parts.path}"


def address_of(text: str) -> Address:
    """Read a URL; whatever is wrong with it, it is not repeated, for it may have a password.

    Raises:
        ConfigError: it is none, or one of a database that cannot be used.
    """
    try:
        parts = urlsplit(text.strip())
        said = parts.scheme if _SCHEME.fullmatch(parts.scheme) else ""
        _ = parts.port  # Raises where it is no number.
        secrets = [key for key, _ in parse_qsl(parts.query) if _is_secret(key)]
    except ValueError:
        raise ConfigError("the storage is no URL that can be read", hint=_EXAMPLE) from None
    family, _, driver = said.partition("+")
    if family == "sqlite":
        raise ConfigError(
            "a shared study is in PostgreSQL or MySQL: SQLite is for one machine",
            hint="leave --storage out for a study of this machine alone; " + _EXAMPLE,
        )
    if family not in _DIALECTS:
        what = f"{said}: is no database that is known here" if said else "has no scheme"
        raise ConfigError(f"the storage's URL {what}", hint=_EXAMPLE)
    if secrets:
        raise ConfigError(
            f"the storage's URL has a secret in its parameter {secrets[0]!r}",
            hint="write the password before the @, in LCM_STORAGE or a file",
        )
    if "@" in parts.path + parts.query:  # Where a password begins with a slash, it ends there.
        raise ConfigError(
            "the storage's URL has an @ behind its host",
            hint="what is special in a password is percent-encoded: / is %2F, @ is %40",
        )
    if not parts.path.strip("/"):
        raise ConfigError("the storage's URL names no database", hint=_EXAMPLE)
    user, _, host = parts.netloc.rpartition("@")
    name, has_password, password = user.partition(":")
    dialect = f"{_DIALECTS[family].partition('+')[0]}+{driver}" if driver else _DIALECTS[family]
    netloc = f"{name}@{host}" if name else host
    url = urlunsplit((dialect, netloc, parts.path, parts.query, ""))
    if not netloc:  # As it stands in a URL of a Unix socket: postgresql:///lcm?host=/run/postgresql
        url = url.replace(":/", ":///", 1) if "://" not in url else url
    return Address(url=url, password=unquote(password) if has_password else None)


def _is_secret(key: str) -> bool:
    return bool(_SECRET.search(key)) and key.lower() not in _FILES
