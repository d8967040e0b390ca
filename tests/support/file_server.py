"""A web server for files that does what a test says, as servers and networks do that fail."""

import re
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Reply = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """A request for a file, with the answers that a `Reply` gives."""

    server: "FileServer"
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """Does what is next for the file."""
        name = self.path.rpartition("/")[2]
        self.content = (self.server.directory / name).read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        self.start = int(found[1]) if found else 0
        self.server.requests[name].append((self.path, self.start))
        replies = self.server.replies[name]
        (replies.pop(0) if len(replies) > 1 else replies[0] if replies else ranges)(self)

    def head(self, status: int, **headers: object) -> None:
        """Sends the head of an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def hang_up(self) -> None:
        """Ends the connection, as if the server had died."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


class FileServer(ThreadingHTTPServer):
    """Serves the files of a directory, whatever folder is asked for.

    Attributes:
        replies: Of a file: what is done for one request after the other; the last stays.
        requests: Of a file: path and first byte of each request so far.
    """

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.directory = directory
        self.replies: dict[str, list[Reply]] = defaultdict(list)
        self.requests: dict[str, list[tuple[str, int]]] = defaultdict(list)

    def handle_error(self, request: object, address: object) -> None:
        """A client that went away is none."""


@contextmanager
def serve(directory: Path) -> Iterator[FileServer]:
    """A server, until the end of the block."""
    with FileServer(directory) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ranges(request: Request) -> None:
    """The file from where the client wants it, as good servers do."""
    body, size = request.content[request.start :], len(request.content)
    if request.start:
        request.head(206, Content_Length=len(body), Content_Range=f"bytes {request.start}-{size - 1}/{size}")
    else:
        request.head(200, Content_Length=size, Accept_Ranges="bytes")
    request.wfile.write(body)


def whole(request: Request) -> None:
    """The whole file, whatever the client wants."""
    request.head(200, Content_Length=len(request.content))
    request.wfile.write(request.content)


def cut(count: int) -> Reply:
    """The file from where the client wants it, but only so many bytes: then the connection breaks."""

    def reply(request: Request) -> None:
        after, size = request.start + count, len(request.content)
        request.head(206 if request.start else 200, Content_Length=size - request.start,
                     Content_Range=f"bytes {request.start}-{size - 1}/{size}")  # fmt: skip
        request.wfile.write(request.content[request.start : after])
        request.hang_up()

    return reply


def hold(count: int, until: threading.Event) -> Reply:
    """As `cut`, but nothing comes after the bytes until the event."""

    def reply(request: Request) -> None:
        request.head(200, Content_Length=len(request.content))
        request.wfile.write(request.content[:count])
        until.wait(60)
        request.hang_up()

    return reply


def answer(status: int, body: bytes = b"", **headers: object) -> Reply:
    """Always the same."""

    def reply(request: Request) -> None:
        request.head(status, **{"Content_Length": len(body)} | headers)
        request.wfile.write(body)

    return reply


def endless(request: Request) -> None:
    """More and more, without saying how much."""
    request.head(200, Transfer_Encoding="chunked")
    try:
        while True:
            request.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
    except OSError:
        request.close_connection = True


def nonsense(request: Request) -> None:
    """What isn't HTTP."""
    request.wfile.write(b"\0\xff nonsense \r\n\r\n" * 100)
    request.hang_up()
