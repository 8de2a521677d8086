"""Where a provider is: the parts of its `base_url`, as they are needed on the wire."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<rest>.*)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^\[:]*)(?P<port>:.*)?")
_PORT = re.compile(r":[1-9][0-9]{0,4}")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_NUMBER_AT_THE_END = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?")
_LONGEST_NAME = 253
_LAST_PORT = 65_535


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
    """Nothing is mended on the way: what is accepted is what will be asked.

    Raises ValueError, saying what is wrong and what to do instead. Of the address, its words are the host at most, and
    not even that where an `@` may have put a password into its place.
    """
    for position, character in enumerate(base_url, start=1):
        if not character.isprintable() or character in " \\":
            what = {" ": "a space", "\\": "a backslash"}.get(character, f"U+{ord(character):04X}")
            raise ValueError(f"its character {position} is {what}, which no address holds: take it out.")
    url = _URL.fullmatch(base_url)
    if url is None or not url["authority"]:
        raise ValueError("it is no http:// or https:// address: write it like 'https://api.example.com/v1'.")
    if "@" in url["authority"]:
        raise ValueError("a user name or password in an address would be lost: put the key into `api_key`.")
    if url["rest"]:
        part = "query" if url["rest"].startswith("?") else "fragment"
        raise ValueError(f"it has a {part}, which would be lost: paths are added to its end. Leave it out.")
    authority = _AUTHORITY.fullmatch(url["authority"])
    if authority is None:
        raise ValueError("its '[' and ']' are not around an address: write an IPv6 one like 'http://[::1]:8000/v1'.")
    scheme, port = url["scheme"].lower(), authority["port"]
    if port is not None and (not _PORT.fullmatch(port) or int(port[1:]) > _LAST_PORT):
        raise ValueError(
            f"its port is no number from 1 to {_LAST_PORT}: correct it, or leave it out with its colon. "
            "An IPv6 address stands in brackets, as in 'http://[::1]:8000/v1'."
        )
    name = authority["host"].lower()
    host = _ipv6(name) if name.startswith("[") else _name(name, shown="that" if "@" in base_url else repr(name))
    return HttpAddress(
        host=host,
        port=_DEFAULT_PORTS[scheme] if port is None else int(port[1:]),
        is_tls=scheme == "https",
        authority=(f"[{host}]" if ":" in host else host) + (port or ""),
        path=quote(url["path"].rstrip("/"), safe="/%:@!$&'()*+,;=~"),
    )


def _ipv6(bracketed: str) -> str:
    address = bracketed[1:-1]
    if "%" in address:
        raise ValueError(
            "its IPv6 address has a zone ('%' and what follows), which means something on one machine only: "
            "use an address without one."
        )
    try:
        IPv6Address(address)
    except ValueError:
        raise ValueError(
            "what stands in brackets is no IPv6 address: write one like 'http://[::1]:8000/v1', "
            "and a name or an IPv4 address without brackets."
        ) from None
    return address


def _name(name: str, *, shown: str) -> str:
    """In ASCII, as the name of a host or an IPv4 address."""
    if "%" in name:
        raise ValueError(f"no host can be called {shown}: write its name as it is, without '%'.")
    try:
        host = name.encode("idna").decode("ascii")
        is_same = name.isascii() or host.encode("ascii").decode("idna") == name
    except UnicodeError:
        host, is_same = "", True
    if not is_same:
        raise ValueError(f"{shown} is not what it would be looked up as: write the host's name in ASCII, as 'xn--...'.")
    if not _NAME.fullmatch(host) or len(host.rstrip(".")) > _LONGEST_NAME:
        raise ValueError(
            f"no host can be called {shown}: a name has letters, digits and '-' between dots, "
            f"63 in a row at most, and no '-' at an end."
        )
    if _NUMBER_AT_THE_END.fullmatch(host):
        try:
            IPv4Address(host)
        except ValueError:
            raise ValueError(
                f"{shown} is no IPv4 address: write four numbers from 0 to 255, such as 127.0.0.1, or a name."
            ) from None
    return host
