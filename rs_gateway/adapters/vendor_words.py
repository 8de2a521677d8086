"""What a vendor says about a failure, fit for a client: without what lies between us and the vendor."""

import re

from rs_gateway.domain.redaction import api_keys

_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://\S+", re.IGNORECASE)
_HOST = re.compile(
    r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b"  # IPv4
    r"|\[[0-9a-f]{0,4}:[0-9a-f]{0,4}:[0-9a-z:.%]{0,60}\](?::\d{1,5})?"  # IPv6
    r"|\blocalhost(?::\d{1,5})?\b"
    r"|\b[a-z0-9][\w-]{0,62}(?:\.[\w-]{1,63})+:\d{2,5}\b"
    r"|(?<=host=)'[^']*'|(?<=host=)\"[^\"]*\"",  # as urllib3 names it
    re.IGNORECASE,
)
_MASKED = re.compile(r"(?<![\w-])[\w-]*\*{3,}[\w*-]*")
_BEGINNING = 6
"""Characters of a key that tell it from any other word."""
_READ, _KEPT = 2_000, 500


def fit_for_clients(words: str, *, secret: str | None, host: str | None = None) -> str:
    """The first line of `words`, at most 500 characters, without addresses and keys. A traceback stands further down.

    Args:
        secret: our key at the vendor; what begins like it goes as well, as some echo only a part.
        host: the vendor's, with or without a port; it may be a name that only we know.
    """
    line = words[:_READ].strip().split("\n", 1)[0].rstrip()
    if secret:
        line = line.replace(secret, "***")
        if len(secret) > 2 * _BEGINNING:
            line = re.sub(rf"{re.escape(secret[:_BEGINNING])}(?:[\w*.…-]*[\w*…-])?", "***", line)
    line = _URL.sub("(address)", api_keys(_MASKED.sub("***", line)))
    if host:
        name = host.rpartition(":")[0] or host
        told = [host, name] if "." in name else [host]
        line = re.sub(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, told))})(?![\w-])", "(address)", line, flags=re.I)
    return _HOST.sub("(address)", line)[:_KEPT]
