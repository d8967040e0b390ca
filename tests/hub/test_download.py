"""Models from a hub, and to one: the real command line against a hub on loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub import MEMBER, STRANGER, Hub
from tests.support.patience import HANG_S

CARD = """---
library_name: transformers
---

```python
model = AutoModelForCausalLM.from_pretrained("small", dtype="auto")
```
"""


@pytest.fixture
def checkpoint(make_llama, tmp_path: Path) -> Path:
    """A checkpoint as `prune` leaves one: with its card, and where it came from."""
    directory = tmp_path / "small"
    make_llama().rename(directory)
    (directory / "README.md").write_text(CARD)
    (directory / "edge_transact.json").write_text(json.dumps({"source": "acme/big@v2"}))
    return directory


@pytest.fixture
def edge_transact(hub: Hub, tmp_path: Path):
    """The command, with the hub on loopback as its hub and an empty home."""

    def run(*arguments: str, token: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        settings |= {"HF_TOKEN": token} if token else {}
        command, environment = [sys.executable, "-m", "edge_transact", *arguments], inherited | settings | environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S)

    return run


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def parameters(result: subprocess.CompletedProcess[str]) -> int:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])["parameters"]


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1 and "Traceback" not in result.stderr
    return result.stderr


def test_a_model_is_downloaded_once_and_then_works_offline(hub, edge_transact, checkpoint):
    hub.add("acme/small", files_of(checkpoint) | {"pytorch_model.bin": b"a pickle"})
    online = edge_transact("inspect", "acme/small", "--json")
    assert parameters(online) and not any("safetensors" in request for request in hub.requests), "config.json alone"
    assert edge_transact("explain", "acme/small").returncode == 0
    assert any(request.endswith("/model.safetensors") for request in hub.requests)
    assert not any("pytorch_model" in request for request in hub.requests)
    offline = edge_transact("inspect", "acme/small", "--json", HF_HUB_OFFLINE="1")
    assert parameters(online) == parameters(offline) == parameters(edge_transact("inspect", str(checkpoint), "--json"))


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, edge_transact, checkpoint, make_llama):
    repository = hub.add("acme/small", files_of(checkpoint))
    repository.revisions["v1"] = files_of(make_llama(num_hidden_layers=1))
    whole, cut = edge_transact("inspect", "acme/small", "--json"), edge_transact("inspect", "acme/small@v1", "--json")
    assert parameters(cut) < parameters(whole)
    assert parameters(edge_transact("inspect", f"acme/small@{repository.commit('v1')}", "--json")) == parameters(cut)
    message = refusal(edge_transact("inspect", "acme/small@v3"))
    assert "acme/small has no revision 'v3'" in message and "acme/small@main" in message


def test_a_gated_model_says_where_to_ask(hub, edge_transact, checkpoint):
    hub.add("acme/small", files_of(checkpoint), gated=True)
    message = refusal(edge_transact("inspect", "acme/small"))
    assert "acme/small is gated" in message and f"{hub.url}/acme/small" in message and "hf auth login" in message
    message = refusal(edge_transact("inspect", "acme/small", token=STRANGER))
    assert "no access to it yet" in message and f"{hub.url}/acme/small" in message
    parameters(edge_transact("inspect", "acme/small", "--json", token=MEMBER))


def test_a_model_that_does_not_exist(hub, edge_transact):
    message = refusal(edge_transact("inspect", "acme/smal"))
    assert "acme/smal does not exist here, and the hub has no such model" in message and "demo:smollm2" in message


def test_a_token_that_has_expired(hub, edge_transact, checkpoint):
    hub.add("acme/small", files_of(checkpoint))
    message = refusal(edge_transact("inspect", "acme/small", token="hf_expired"))
    assert "does not accept the token" in message and "hf auth login" in message


def test_no_network_and_offline_mode_have_different_errors(edge_transact):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"
    message = refusal(edge_transact("inspect", "acme/small", HF_ENDPOINT=closed, HF_HUB_ETAG_TIMEOUT="1"))
    assert f"{closed} can't be reached" in message and "HF_ENDPOINT" in message
    message = refusal(edge_transact("inspect", "acme/small", HF_HUB_OFFLINE="1"))
    assert "not in the local cache, and HF_HUB_OFFLINE is set" in message and "Unset HF_HUB_OFFLINE" in message


def test_a_hub_model_with_only_pickles(hub, edge_transact, checkpoint):
    files = files_of(checkpoint)
    hub.add("acme/old", {"config.json": files["config.json"], "pytorch_model.bin": b"a pickle"})
    assert "safetensors" in refusal(edge_transact("explain", "acme/old"))


def test_push_creates_a_repository_that_loads(hub, edge_transact, checkpoint):
    result = edge_transact("push", str(checkpoint), "acme/pushed", "--json", token=MEMBER)
    assert result.returncode == 0, result.stderr
    published = json.loads(result.stdout.splitlines()[-1])
    stored = hub.repositories["models/acme/pushed"]
    files = {"commit": stored.commit("main"), "files": len(files_of(checkpoint))}
    assert published == {"repository": "acme/pushed", "url": f"{hub.url}/acme/pushed", **files}
    assert stored.revisions["main"]["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    card = stored.revisions["main"]["README.md"].decode()
    assert 'from_pretrained("acme/pushed", dtype="auto")' in card
    assert "base_model: acme/big" in card
    assert (checkpoint / "README.md").read_text() == CARD
    loaded = edge_transact("inspect", "acme/pushed", "--json")
    assert parameters(loaded) == parameters(edge_transact("inspect", str(checkpoint), "--json"))


def test_push_to_a_branch_does_not_change_main(hub, edge_transact, checkpoint):
    hub.add("acme/pushed", {"README.md": b"main"})
    for _ in range(2):
        result = edge_transact("push", str(checkpoint), "acme/pushed@ratio-30", token=MEMBER)
        assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith(f"{hub.url}/acme/pushed/tree/ratio-30")
    revisions = hub.repositories["models/acme/pushed"].revisions
    assert revisions["main"] == {"README.md": b"main"}
    assert revisions["ratio-30"]["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    assert b'from_pretrained("acme/pushed", revision="ratio-30", dtype="auto")' in revisions["ratio-30"]["README.md"]


def test_push_skips_pickles_and_hidden_files(hub, edge_transact, checkpoint):
    (checkpoint / ".env").write_text("SECRET=1")
    (checkpoint / "optimizer.pt").write_text("state")
    result = edge_transact("push", str(checkpoint), "acme/pushed", token=MEMBER)
    assert result.returncode == 0, result.stderr
    assert not {".env", "optimizer.pt"} & set(hub.repositories["models/acme/pushed"].revisions["main"])


def test_push_without_permission(edge_transact, checkpoint):
    says = {"": "not logged in", STRANGER: "does not allow this", "hf_expired": "does not allow this"}
    for token, words in says.items():
        message = refusal(edge_transact("push", str(checkpoint), "acme/pushed", token=token))
        assert words in message and "hf auth login" in message


def test_push_checks_the_checkpoint_before_it_sends_anything(hub, edge_transact, checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "truncated" in refusal(edge_transact("push", str(checkpoint), "acme/pushed", token=MEMBER))
    assert hub.requests == []


def test_push_needs_a_card(edge_transact, checkpoint):
    (checkpoint / "README.md").unlink()
    assert "no model card" in refusal(edge_transact("push", str(checkpoint), "acme/pushed", token=MEMBER))


def test_push_to_an_invalid_hub_id(edge_transact, checkpoint):
    result = edge_transact("push", str(checkpoint), "pushed")
    assert result.returncode == 2 and "organisation/name" in result.stderr
