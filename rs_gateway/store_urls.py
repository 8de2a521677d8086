"""The URLs of stores, apart from their passwords: what is left may be shown to anybody."""

from urllib.parse import quote, unquote

POSTGRES_SCHEMES = ("postgresql", "postgres")
_SECRETS = ("password", "sslpassword")


def is_postgres(url: str) -> bool:
    """Whether a URL names a Postgres database, as libpq writes it."""
    return url.partition("://")[0].lower() in POSTGRES_SCHEMES


def is_database(url: str) -> bool:
    """Whether a URL names a Postgres database, a driver's name behind a plus sign or not."""
    return url.partition("://")[0].partition("+")[0].lower() in POSTGRES_SCHEMES


def without_password(url: str) -> str:
    """`url` with nothing secret in it; one that is no Postgres URL as it is."""
    scheme, userinfo, rest = _parts(url)
    if scheme is None:
        return url
    user = userinfo.partition(":")[0] if userinfo is not None else None
    place, _, query = rest.partition("?")
    kept = "&".join(part for part in query.split("&") if part.partition("=")[0].lower() not in _SECRETS)
    return f"{scheme}://{'' if user is None else user + '@'}{place}{'?' if kept else ''}{kept}"


def password_in(url: str) -> str | None:
    """The password that a Postgres URL holds; None when it holds none. Whoever may show the URL leaves it out."""
    _, userinfo, rest = _parts(url)
    if userinfo is not None and userinfo.partition(":")[2]:
        return unquote(userinfo.partition(":")[2])
    given = [part.partition("=")[2] for part in rest.partition("?")[2].split("&") if part.startswith("password=")]
    return unquote(given[-1]) if given else None


def escaped(password: str) -> str:
    """A password as it can stand in a URL."""
    return quote(password, safe="")


def _parts(url: str) -> tuple[str | None, str | None, str]:
    """Scheme, `user:password` and the rest of a Postgres URL; None, None and "" for any other.

    A password that was not escaped, as one with a slash in it, still counts as the password and not as a host.
    """
    if not is_database(url):
        return None, None, ""
    scheme, _, rest = url.partition("://")
    place, mark, query = rest.partition("?")
    if "@" not in place:
        place, mark, query = rest, "", ""
    userinfo, at, host = place.rpartition("@")
    return scheme, userinfo if at else None, host + mark + query
