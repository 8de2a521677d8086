"""Where a provider is: the parts of its `base_url`, as they are needed on the wire."""

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Parts of an URL without anything to follow its path.

    Attributes:
        host: as a resolver takes it, in ASCII; without brackets.
        authority: host and port as a `host` header has them.
        path: percent-encoded, without a slash at its end; empty for the root.
    """

    host: str
    port: int
    is_tls: bool
    authority: str
    path: str


def parse_address(base_url: str) -> HttpAddress:
    """Raises ValueError, saying what is wrong with `base_url` and what to do instead; never quotes a password."""
    url = urlsplit(base_url)
    if url.username is not None or url.password is not None:
        raise ValueError("a user name or password in an address would be lost: put the key into `api_key`.")
    if url.scheme not in _DEFAULT_PORTS or not url.hostname:
        raise ValueError(f"{base_url!r} is no http:// or https:// address.")
    for name, given in (("query", url.query), ("fragment", url.fragment)):
        if given:
            raise ValueError(
                f"{base_url!r} has a {name}, which would be lost: paths are added to its end. Leave it out."
            )
    try:
        port = url.port
        host = url.hostname if ":" in url.hostname else url.hostname.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(f"{base_url!r}: no host can be called {url.hostname!r}.") from None
    except ValueError:
        raise ValueError(f"{base_url!r}: its port is no number from 0 to 65535.") from None
    if not host.isprintable() or " " in host:
        raise ValueError(f"{base_url!r}: no host can be called {url.hostname!r}.")
    bracketed = f"[{host}]" if ":" in host else host
    return HttpAddress(
        host=host,
        port=port or _DEFAULT_PORTS[url.scheme],
        is_tls=url.scheme == "https",
        authority=bracketed if port is None else f"{bracketed}:{port}",
        path=quote(url.path.rstrip("/"), safe="/%:@!$&'()*+,;=~"),
    )
