"""An app's weights from a server: whole and right whatever it does, or a reason."""

import json
import shutil
import ssl
import subprocess
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support.edge_app import SHARD, Core, Failed, change, same, wait_until
from tests.support.file_server import FileServer, answer, cut, endless, hold, nonsense, ranges, serve, whole
from tests.support.patience import HANG_S

pytestmark = pytest.mark.needs("java", "javac")

URL = "https://models.example/v1/short"


@pytest.fixture
def server(app):
    with serve(app.assets / "short") as running:
        yield running


@pytest.fixture
def places(app, request, server) -> dict[str, object]:
    """A phone whose app downloads the model ``short``: arguments of a command. Its assets have no weights."""
    app.read(app.entry("short", weights="download", url=URL))
    places = app.phone(request.node.name.partition("[")[0] + str(server.server_port))
    return {"id": "short", **places, "assets": Path("/nowhere"), "port": server.server_port}


@pytest.fixture
def content(app) -> bytes:
    return (app.assets / "short" / SHARD).read_bytes()


def right(app, places) -> bool:
    return same(places["internal"] / "short", app.assets / "short")


def fails(app, places, **how) -> Failed:
    with pytest.raises(Failed) as failed:
        app.core("prepare", **places, **how)
    assert not (places["internal"] / "short").exists()
    return failed.value


def starts(server: FileServer) -> list[int]:
    """From which byte on the shard was asked for."""
    return [start for _, start in server.requests[SHARD]]


def test_weights_are_downloaded_once(app, places, server):
    server.replies[SHARD] = [answer(302, Location="https://cdn.example/a?signed=1"), ranges]
    server.replies["a?signed=1"] = [lambda request: request.head(307, Location=f"/b/{SHARD}", Content_Length=0)]
    (app.assets / "short" / "a?signed=1").write_bytes(b"")  # the server looks every file up
    try:
        result = app.core("prepare", **places)
    finally:
        (app.assets / "short" / "a?signed=1").unlink()
    assert result["path"] == str(places["internal"] / "short") and right(app, places)
    total = sum(file["bytes"] for file in app.entry("short")["files"])
    assert {(stage, of) for stage, _, of in result["progress"]} == {("DOWNLOAD", total)}
    done = [done for _, done, _ in result["progress"]]
    assert done == sorted(done) and (done[0], done[-1]) == (0, total)
    paths = [path for path, _ in server.requests[SHARD]]
    assert paths == [f"/models.example/v1/short/{SHARD}", f"/cdn.example/b/{SHARD}"]
    asked = sum(map(len, server.requests.values()))
    app.core("keep_only", **places)
    assert app.core("prepare", **places)["progress"] == []
    assert sum(map(len, server.requests.values())) == asked


def test_connections_that_break_go_on_where_they_were(app, places, server, content):
    server.replies[SHARD] = [cut(1), cut(70_000), cut(0), cut(100_000), ranges]
    app.core("prepare", **places)
    assert right(app, places)
    assert starts(server) == [0, 1, 70_001, 70_001, 170_001]


def test_a_download_that_was_killed_goes_on_at_the_byte_where_it_was(app, places, server, content, tmp_path):
    """The second time, the first half on the server is wrong: nobody asks for it again."""
    half, release = len(content) // 2, threading.Event()
    server.replies[SHARD] = [hold(half, release)]
    core = Core({}, tmp_path / "calls.jsonl")
    core("models", json=json.dumps({"models": [app.entry("short", weights="download", url=URL)]}))

    def download() -> None:
        with pytest.raises(ValueError):
            core("prepare", **places)

    downloading = threading.Thread(target=download, daemon=True)
    downloading.start()
    part = places["internal"] / ".short.part" / SHARD
    wait_until(lambda: part.exists() and part.stat().st_size == half)
    core.kill()
    downloading.join(HANG_S)
    release.set()
    assert not downloading.is_alive()
    server.directory = tmp_path / "later"
    shutil.copytree(app.assets / "short", server.directory)
    (server.directory / SHARD).write_bytes(bytes(half) + content[half:])
    server.replies[SHARD] = [ranges]
    app.core("keep_only", **places)
    app.core("prepare", **places)
    assert right(app, places) and starts(server) == [0, half]


def test_a_server_without_ranges(app, places, server):
    server.replies[SHARD] = [cut(50_000), whole]
    app.core("prepare", **places)
    assert right(app, places) and starts(server) == [0, 50_000]


def test_a_beginning_of_another_version_is_thrown_away(app, places, server):
    part = places["internal"] / ".short.part"
    part.mkdir(parents=True)
    (part / SHARD).write_bytes(b"x" * 1000)
    result = app.core("prepare", **places)
    assert right(app, places) and starts(server) == [1000, 0]
    _, done, total = result["progress"][-1]
    assert done == total


def test_wrong_bytes(app, places, server, tmp_path):
    server.directory = tmp_path / "wrong"
    shutil.copytree(app.assets / "short", server.directory)
    change(server.directory / SHARD)
    failed = fails(app, places)
    assert (failed.code, failed.fields["detail"]) == ("WEIGHTS_DAMAGED", SHARD)
    assert not (places["internal"] / ".short.part" / SHARD).exists()
    change(server.directory / SHARD)
    app.core("prepare", **places)
    assert right(app, places)


@pytest.mark.parametrize(
    ("reply", "words", "times"),
    [
        (answer(404), "HTTP 404", 1),
        (answer(503), "HTTP 503", 2),
        (answer(200, b"<html>Sign in to the Wi-Fi</html>"), "it has 33 bytes instead of", 1),
        (answer(206, b"x", Content_Range="bytes 5-5/6"), "it has bytes 5-5/6 instead of", 1),
        (answer(302, Location=f"https://models.example/{SHARD}"), "it redirects more than 5 times", 6),
        (answer(302, Location=f"http://models.example/{SHARD}"), "it redirects to http://models.example/", 1),
        (answer(302, Location="file:/etc/passwd"), "it redirects to file:/etc/passwd", 1),
        (answer(302, Location="what:is this"), "unknown protocol", 2),
        (answer(304), "HTTP 304", 1),
        (cut(0), "it ended after 0 of", 2),
        (nonsense, "HTTP -1", 2),
    ],
)
def test_what_a_server_can_say_instead(app, places, server, reply, words, times):
    server.replies[SHARD] = [reply]
    failed = fails(app, places)
    assert failed.code == "DOWNLOAD_FAILED"
    assert failed.fields["detail"].startswith(f"{URL}/{SHARD}: ") and words in failed.fields["detail"]
    assert len(starts(server)) == times


def test_a_wrong_rest_of_a_file(app, places, server):
    server.replies[SHARD] = [cut(1000), answer(206, b"x", Content_Range="bytes 5-5/6")]
    assert "it has bytes 5-5/6 instead of bytes 1000-" in fails(app, places).fields["detail"]
    server.replies[SHARD] = [ranges]
    app.core("prepare", **places)
    assert right(app, places) and starts(server) == [0, 1000, 1000]


def test_a_server_that_gives_little_each_time_is_left(app, places, server):
    server.replies[SHARD] = [cut(100)]
    assert fails(app, places).code == "DOWNLOAD_FAILED"
    assert starts(server) == [100 * index for index in range(20)]


def test_an_endless_answer(app, places, server):
    server.replies[SHARD] = [endless]
    assert fails(app, places).code == "WEIGHTS_DAMAGED"
    part = places["internal"] / ".short.part"
    assert sum(file.stat().st_size for file in part.iterdir()) < 1_000_000


def test_nobody_there(app, places, server):
    server.server_close()
    assert "Connection refused" in fails(app, places).fields["detail"]
    places["port"] = -1
    assert "INTERNET permission" in fails(app, places).fields["detail"]


def test_a_download_is_given_up_while_a_server_says_nothing(app, places, server):
    """A socket's read ends by itself after 30 s only."""
    release = threading.Event()
    server.replies[SHARD] = [hold(1000, release)]
    begun = time.monotonic()
    with pytest.raises(ValueError, match="interrupted"):
        app.core("prepare", interrupt_after_ms=300, **places)
    assert time.monotonic() - begun < 20
    release.set()
    server.replies[SHARD] = [ranges]
    app.core("prepare", **places)
    assert right(app, places)


def test_weights_that_were_installed_stand_for_a_download(app, places, server):
    shutil.copytree(app.assets / "short", places["external"] / "short")
    assert app.core("prepare", **places)["path"] == str(places["external"] / "short")
    assert not server.requests


@pytest.mark.parametrize("url", ["http://a.example/x", "https://a.example/x?key=1", "file:/etc", "https://", ""])
def test_a_url_that_is_not_a_folder_on_a_secure_server(app, url):
    with pytest.raises(Failed) as failed:
        app.read(app.entry("short", weights="download", url=url))
    assert failed.value.code == "MODELS_INVALID"


@pytest.mark.needs("keytool", "openssl")
def test_over_tls(app, places, server, tmp_path, monkeypatch):
    """With the JVM's own client; what it doesn't trust brings nothing."""
    store, key = tmp_path / "store.p12", tmp_path / "key.pem"
    name = ["-dname", "CN=localhost", "-ext", "san=dns:localhost", "-keyalg", "EC", "-storepass", "changeit"]
    subprocess.run(["keytool", "-genkeypair", "-alias", "a", "-keystore", store, *name], check=True)
    openssl = ["openssl", "pkcs12", "-in", store, "-passin", "pass:changeit", "-nodes", "-out", key]
    subprocess.run(openssl, check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.replies[SHARD] = [cut(1000), ranges]
    entry = app.entry("short", weights="download", url=f"https://localhost:{server.server_port}/v1")
    for trusted in ("/dev/null", str(store)):
        options = f"-Djavax.net.ssl.trustStore={trusted} -Djavax.net.ssl.trustStorePassword=changeit"
        monkeypatch.setenv("JAVA_TOOL_OPTIONS", options)
        core = Core({}, tmp_path / "calls.jsonl")
        core("models", json=json.dumps({"models": [entry]}))
        with pytest.raises(Failed, match="download failed") if trusted == "/dev/null" else nullcontext():
            core("prepare", **places)
        core.kill()
    assert right(app, places) and starts(server) == [0, 1000]
