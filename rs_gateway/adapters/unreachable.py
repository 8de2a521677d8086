"""Why a provider could not be reached, in words without its address."""

import socket
import ssl

_WHY: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "nobody listens there"),
    (socket.gaierror, "its host's name cannot be looked up"),
    (ssl.SSLCertVerificationError, "its certificate is not trusted here"),
    (ssl.SSLError, "it does not speak TLS as expected"),
    (ConnectionError, "the connection broke"),
)


def unreachable(name: str, cause: BaseException | None) -> str:
    """A sentence about the provider `name`. The system's own message may hold the address; its type says enough."""
    kind = type(cause).__name__
    why = next((words for known, words in _WHY if isinstance(cause, known)), None)
    return f"{name} cannot be reached ({kind})." if why is None else f"{name} cannot be reached: {why} ({kind})."
