"""A provider's address: taken as it was written, or refused with the reason and without the secrets in it."""

from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.http_address import HttpAddress, parse_address

BRACKETS = r"like 'http://\[::1\]:8000/v1'"
A_NAME = r"letters, digits and '-'"


def printed(address: HttpAddress) -> str:
    """The URL that stands for what was understood."""
    return f"{'https' if address.is_tls else 'http'}://{address.authority}{address.path}"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://h/v1", "like 'https://api.example.com/v1'"),
        ("http:///v1", "like 'https://api.example.com/v1'"),
        ("nonsense", "like 'https://api.example.com/v1'"),
        ("", "like 'https://api.example.com/v1'"),
        ("user:secret@host/v1", "like 'https://api.example.com/v1'"),
        ("https:/user:secret@h", "like 'https://api.example.com/v1'"),
        ("http://me:secret@h/v1", "put the key into `api_key`"),
        ("http://secret@h/v1", "put the key into `api_key`"),
        ("http://me:secret@\u2100.example/v1", "put the key into `api_key`"),
        ("http://h/v1?api-version=1", "has a query.*Leave it out"),
        ("http://h,g/v1?key=secret", "has a query.*Leave it out"),
        ("http://h/v1?", "has a query"),
        ("http://h/v1#secret", "has a fragment"),
        ("http://h:0/v1", "port is no number from 1 to 65535"),
        ("http://h:65536/v1", "port"),
        ("http://h:08/v1", "port"),
        ("http://h:/v1", "leave it out with its colon"),
        ("http://h:secret/v1", "port"),
        ("http://h:\u0661/v1", "port"),
        ("http://::1/v1", f"port.*An IPv6 address stands in brackets, as in {BRACKETS[5:]}"),
        ("http://[::1/v1", f"not around an address.*{BRACKETS}"),
        ("http://::1]/v1", "in brackets"),
        ("http://[::1]h/v1", "not around an address"),
        ("http://[v1.a:b]/v1", f"no IPv6 address.*{BRACKETS}"),
        ("http://[127.0.0.1]/v1", "IPv4 address without brackets"),
        ("http://[fe80::1%25eth0]/v1", "zone.*use an address without one"),
        ("http://a..b/v1", f"no host can be called 'a..b': .*{A_NAME}"),
        ("http://" + "a" * 64 + ".example", f"no host can be called .*{A_NAME}"),
        ("http://" + "a.b" * 90, f"no host can be called .*{A_NAME}"),
        ("http://-h-/v1", f"no host can be called '-h-': .*{A_NAME}"),
        ("http://<x>/v1", f"no host can be called '<x>': .*{A_NAME}"),
        ("http://h,g/v1", f"no host can be called 'h,g': .*{A_NAME}"),
        ("http://-h-/secret@g", f"no host can be called that: .*{A_NAME}"),
        ("http://h%41/v1", "'h%41': write its name as it is, without '%'"),
        ("http://256.0.0.1/v1", "no IPv4 address: write four numbers"),
        ("http://127.1/v1", "no IPv4 address: write four numbers"),
        ("http://fa\xdf.example/v1", "in ASCII, as 'xn--...'"),
        ("http://h\\evil/v1", "character 9 is a backslash, .* take it out"),
        ("http://a b/v1", "character 9 is a space, .* take it out"),
        (" http://h/v1", "character 1 is a space"),
        ("http://h/v1\r\n", r"character 12 is U\+000D"),
        ("http://h/v\t1", r"character 11 is U\+0009"),
        ("http://h/v1\ud800", r"character 12 is U\+D800"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_the_reason_and_the_remedy(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        parse_address(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "authority", "host", "path"),
    [
        ("http://127.0.0.1:81/v1/", "127.0.0.1:81", "127.0.0.1", "/v1"),
        ("https://[::1]:81", "[::1]:81", "::1", ""),
        ("https://[::1]/x", "[::1]", "::1", "/x"),
        ("HTTPS://H.Example.:8443/V1", "h.example.:8443", "h.example.", "/V1"),
        ("http://my_model-1/v1", "my_model-1", "my_model-1", "/v1"),
        ("https://b\u00fccher.example/\u00fc", "xn--bcher-kva.example", "xn--bcher-kva.example", "/%C3%BC"),
        ("http://h/models/x@001/v%31", "h", "h", "/models/x@001/v%31"),
    ],
)
def test_an_address_is_what_goes_out_on_the_wire(url: str, authority: str, host: str, path: str) -> None:
    address = parse_address(url)
    assert (address.authority, address.host, address.path) == (authority, host, path)


labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: not name[-1].isdigit())
hosts = st.one_of(
    names,
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
ports = st.none() | st.integers(1, 65_535)
segments = st.text("abcXYZ019-._~!$&'()*+,;=:@", min_size=1, max_size=8)
paths = st.lists(segments, max_size=3).map(lambda parts: "".join(f"/{part}" for part in parts))


@given(st.sampled_from(["http", "https"]), hosts, ports, paths)
def test_an_address_in_its_plain_form_is_taken_letter_by_letter(
    scheme: str, host: str, port: int | None, path: str
) -> None:
    url = f"{scheme}://{host}{'' if port is None else f':{port}'}{path}"
    address = parse_address(url)
    assert printed(address) == url
    assert address.port == (port or (443 if scheme == "https" else 80))


pieces = st.one_of(
    hosts,
    ports.map(lambda port: f":{port}"),
    paths,
    st.sampled_from(
        ["http://", "https://", "@", "?", "#", "%41", "[", "]", "\\", "\t", "\r\n", "xn--", "\u00fc", "//"]
    ),
    st.text(max_size=3),
)


@given(st.lists(pieces, max_size=6).map("".join))
def test_whatever_is_accepted_is_what_was_written(rest: str) -> None:
    """Parsed again it stays, and another reader of URLs understands the same of what was written."""
    url = f"http://{rest}"
    try:
        address = parse_address(url)
    except ValueError:
        return
    assert parse_address(printed(address)) == address
    other = httpx.URL(printed(address))
    assert (other.raw_host.decode(), other.port or 80) == (address.host, address.port)
    written_host, slash, written_path = rest.partition("/")
    assert quote(slash + written_path, safe="/%:@!$&'()*+,;=~").rstrip("/") == address.path
    if written_host.isascii():
        assert written_host.lower() == address.authority


@given(
    st.sampled_from(
        [
            *("{secret}@h/v1", "me:{secret}@h", "https:/me:{secret}@h", "http://me:{secret}@h", "http://{secret}@h"),
            *("http://h/v1?key={secret}", "http://h,g?{secret}", "http://h#{secret}", "//me:{secret}@h", "{secret}"),
            *("http://me:{secret}@\u2100", "http://me:{secret}", "http://me:{secret}/x@h", "http://h/{secret} x"),
            *("http://me:1/{secret}@h", "http://-me/{secret}@h,g", "http:///{secret}", "ftp://me:{secret}@h"),
        ]
    ),
    st.text("abcXYZ019/?#[]:@%\\ \u2100", max_size=6),
)
def test_no_error_tells_a_secret(form: str, noise: str) -> None:
    url = form.format(secret=f"{noise}SeSaMe{noise}")
    try:
        parse_address(url)
    except ValueError as error:
        assert "sesame" not in str(error).lower()
