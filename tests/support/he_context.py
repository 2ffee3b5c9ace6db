"""TenSEAL contexts as FLARE's own builder writes them into the kits of sites and server."""

from functools import cache

from nvflare.lighter.impl.he import HEBuilder


@cache
def contexts(number: int = 0) -> dict[str, bytes]:
    """By file name; another number is another provisioning."""
    builder = HEBuilder()
    builder.initialize(None, None)
    return {
        "client_context.tenseal": builder.get_serialized_context(is_client=True),
        "server_context.tenseal": builder.get_serialized_context(),
    }


def client(number: int = 0) -> bytes:
    """A site's context."""
    return contexts(number)["client_context.tenseal"]


def server(number: int = 0) -> bytes:
    """The server's."""
    return contexts(number)["server_context.tenseal"]
