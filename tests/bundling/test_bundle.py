"""`bundle`: a project that is complete or absent, whose libraries MLC's packaging takes as they are."""

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import unescape

import pytest

from edge_transact import costs
from edge_transact.artifacts import digests
from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.dist_files import TUNING
from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking.records.tuned import Tuned, write_tuning
from edge_transact.bundling import sources
from edge_transact.bundling.escaping import android_string, model_ids
from edge_transact.bundling.models import AppModels, files_digest
from edge_transact.bundling.project import PACKAGE_CONFIG, Project, bundle
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.verification import verify
from tests.support.command import run, said
from tests.support.dists import PLAN, edit_json, make_archive, make_dist
from tests.support.hostile_names import NAME
from tests.support.interruption import KilledError

pytestmark = pytest.mark.needs("clang-19")

ASSETS = Path("app/src/main/assets/edge")


@pytest.fixture(scope="session")
def kept(tmp_path_factory) -> Path:
    return make_dist(tmp_path_factory.mktemp("kept") / "tiny")


@pytest.fixture
def dist(kept, tmp_path) -> Path:
    """A DIST of its own for a test."""
    return Path(shutil.copytree(kept, tmp_path / "tiny"))


@pytest.fixture
def other(tmp_path) -> Path:
    """A second model, of other widths."""
    return make_dist(tmp_path / "other", ["android-cpu"], "edge_llama_q4f16_0_89abcdef", context=256)


def test_a_project_has_models_libraries_and_the_files_that_apps_read(dist, other, tmp_path):
    project = bundle([dist, other], tmp_path / "app")
    directory = project.directory
    models = json.loads((directory / ASSETS / "models.json").read_text())["models"]
    assert [model["id"] for model in models] == ["tiny", "other"]
    first, second = models
    name = "edge_llama_q4f16_0_0123abcd"
    assert first["libraries"] == {"android": name, "android-cpu": f"{name}-cpu"}
    assert list(second["libraries"]) == ["android-cpu"]
    assert (second["context_window_size"], second["prefill_chunk_size"]) == (256, 64)
    assert first["weights"] == "assets"
    names = {"mlc-chat-config.json", "tensor-cache.json", "tokenizer.json", "params_shard_0.bin", "params_shard_1.bin"}
    for place in (directory / "models" / "tiny", directory / ASSETS / "tiny"):
        assert {path.name for path in place.iterdir()} == names
        assert all((place / file["path"]).stat().st_size == file["bytes"] for file in first["files"])
        assert all(sha256(place / file["path"]) == file["sha256"] for file in first["files"])
    assert {path.name for path in (directory / "libraries").iterdir()} == {
        f"{name}-android.tar", f"{name}-android-cpu.tar", "edge_llama_q4f16_0_89abcdef-android-cpu.tar"
    }  # fmt: skip
    assert (directory / "settings.gradle").is_file() and not list(directory.rglob("*.j2"))
    assert Project.read(directory) == project


def test_an_app_gets_what_its_dists_were_tuned_to(dist, other, tmp_path):
    """What was found best for answers, by chip, where the DIST has that library."""
    cpu = {"target": "android-cpu", "cores": [4, 5, 6, 7], "tok_s": 40.0, "clear": True}
    gpu = {"target": "android", "cores": [], "tok_s": 300.0, "clear": True}
    for path, decode in ((dist, cpu), (other, gpu)):
        before = bundle([dist, other], tmp_path / f"before-{path.name}").digest
        write_tuning(path, "SM8650", Tuned(device="Phone", decode=decode, prefill=gpu))
        project = bundle([dist, other], tmp_path / f"after-{path.name}")
        assert (project.digest == before) == (path is other)
    content = json.loads((project.directory / ASSETS / "models.json").read_text())
    found = {model["id"]: model["tuned"] for model in content["models"]}
    assert found == {"tiny": {"SM8650": {"target": "android-cpu", "cores": [4, 5, 6, 7]}}, "other": {}}
    assert Project.read(project.directory) == project
    assert all(check.ok for check in verify(dist, project.directory))
    (dist / TUNING).write_text("{}")
    with pytest.raises(EdgeTransactError, match="was changed"):
        bundle([dist], tmp_path / "damaged")


def test_memory_is_that_of_the_cache_which_the_engine_needs(dist, tmp_path):
    (model,) = bundle([dist], tmp_path / "app").models
    quantization = QUANTIZATIONS["q4f16_0"]
    pages = (128 + 160) // 16 + 1
    cache = pages * 16 * costs.kv_bytes_per_token(PLAN, quantization)
    expected = costs.loaded_weight_bytes(PLAN, quantization) + cache + costs.workspace_bytes(PLAN, quantization, 64)
    assert model.memory_bytes == {"android": expected, "android-cpu": expected}


def test_the_digest_of_a_model_is_over_its_files(dist, tmp_path):
    (model,) = bundle([dist], tmp_path / "app").models
    lines = "".join(f"{file.sha256} {file.bytes} {file.path}\n" for file in sorted(model.files, key=lambda f: f.path))
    assert model.digest == digests.text_digest(lines) == files_digest(model.files)


def check_as_mlc_does(directory: Path) -> list[str]:
    """The archives that ``mlc_llm package`` would link, after its checks (``interface/package.py``, 79d603f0)."""
    config = json.loads((directory / PACKAGE_CONFIG).read_text())
    assert config["device"] in ("iphone", "macabi", "android")
    assert isinstance(config["model_list"], list)
    libraries = config["model_lib_path_for_prepare_libs"]
    assert isinstance(libraries, dict)
    for entry in config["model_list"]:
        assert isinstance(entry["model"], str) and not entry["model"].startswith(("HF://", "https://"))
        assert isinstance(entry["model_id"], str) and isinstance(entry["estimated_vram_bytes"], int)
        assert entry["bundle_weight"] is True, "a local model is refused without it"
        assert isinstance(entry.get("overrides", {}), dict)
        assert entry["model_lib"] in libraries, "it would be compiled"
        model = directory / entry["model"]
        assert (model / "mlc-chat-config.json").is_file() and (model / "tensor-cache.json").is_file()
    symbols = set()
    for archive in libraries.values():
        with tarfile.open(directory / archive) as members, open(directory / "object.o", "wb") as item:
            item.write(members.extractfile("lib0.o").read())
        listing = subprocess.run(["llvm-nm-19", "-gU", directory / "object.o"], capture_output=True, text=True)
        symbols |= {line.split()[-1] for line in listing.stdout.splitlines()}
    for name in libraries:
        assert name.replace("-", "_") + "___tvm_ffi__library_bin" in symbols
    return list(libraries.values())


@pytest.mark.needs("llvm-nm-19")
def test_mlcs_packaging_takes_the_configuration_and_compiles_nothing(dist, other, tmp_path):
    directory = bundle([dist, other], tmp_path / "app").directory
    assert len(check_as_mlc_does(directory)) == 3
    # A project can be moved: its paths are relative to it.
    moved = directory.rename(tmp_path / "elsewhere")
    check_as_mlc_does(moved)


def test_a_shard_of_another_size_is_found_before_anything_is_copied(dist, tmp_path):
    with (dist / "params_shard_1.bin").open("ab") as shard:
        shard.truncate(10 << 30)
    with pytest.raises(EdgeTransactError, match=r"params_shard_1.bin has \d+ bytes, tensor-cache.json says 4"):
        bundle([dist], tmp_path / "app")


def test_names_are_data(kept, tmp_path):
    dist = Path(shutil.copytree(kept, tmp_path / NAME))
    directory = bundle([dist], tmp_path / "app", application_id="com.Example_1.x", app_name=NAME).directory
    strings = ElementTree.parse(directory / "app/src/main/res/values/strings.xml").getroot()
    (name,) = [item for item in strings if item.get("name") == "app_name"]
    assert name.get("formatted") == "false"
    assert name.text == unescape(android_string(NAME))
    gradle = (directory / "app/build.gradle").read_text()
    assert re.findall(r"applicationId\W+([\w.]+)", gradle) == ["com.Example_1.x"]
    (model,) = AppModels.of_project(directory).models
    assert (model.id, model.name) == (*model_ids([NAME]), NAME)
    written = [path for path in directory.rglob("*") if path.is_file() and path.name != "models.json"]
    # Nothing but the list of models, the app's name and the record has seen the names.
    assert {path.name for path in written if b"$(touch" in path.read_bytes()} == {"strings.xml", "bundle.json"}


def test_models_whose_names_differ_in_case_get_ids_that_differ(kept, other, tmp_path):
    other = other.rename(tmp_path / "TINY")
    assert [model.id for model in bundle([kept, other], tmp_path / "app").models] == ["tiny", "TINY-2"]


def test_two_models_with_one_prefix(kept, dist, tmp_path):
    with pytest.raises(UsageError, match=r"have the same library, edge_llama_q4f16_0_0123abcd") as no:
        bundle([kept, dist], tmp_path / "app")
    assert "--context" in no.value.fix and not (tmp_path / "app").exists()


@pytest.mark.parametrize(("targets", "listed"), [(["host"], "only for host"), ([], "only for nothing")])
def test_a_dist_without_a_library_for_android(dist, tmp_path, targets, listed):
    edit_json(dist / "manifest.json", libraries={target: "tokenizer.json" for target in targets})
    with pytest.raises(UsageError, match=listed) as no:
        bundle([dist], tmp_path / "app")
    assert "--target android,android-cpu" in no.value.fix


@pytest.mark.parametrize(
    ("target", "words"), [("android", "runs on phones with OpenCL only"), ("android-cpu", "runs on CPUs only")]
)
def test_a_dist_with_one_of_the_two_libraries(kept, tmp_path, target, words):
    dist = make_dist(tmp_path / "one", [target])
    result = run("bundle", dist, "-o", tmp_path / "app")
    assert result.exit_code == 0 and words in result.stdout
    assert words not in run("bundle", kept, "-o", tmp_path / "both").stdout


def test_an_archive_under_another_name(dist, tmp_path):
    manifest = Manifest.read(dist)
    make_archive(dist / manifest.libraries["android-cpu"], manifest.model_lib)
    manifest.write(dist)
    with pytest.raises(EdgeTransactError, match=r"no symbol edge_llama_q4f16_0_0123abcd_cpu___tvm_ffi__library_bin"):
        bundle([dist], tmp_path / "app")


def test_models_that_are_too_large_for_the_app_go_into_asset_packs(dist, other, tmp_path, monkeypatch):
    sizes = [sum(path.stat().st_size for path in one.glob("*") if path.is_file()) for one in (dist, other)]
    monkeypatch.setattr(sources, "ASSETS_BYTES", min(sizes))
    dist = make_dist(tmp_path / "large" / "tiny", shards=[b"x" * 5000, b"more"])
    result = run("bundle", str(dist), str(other), "-o", str(tmp_path / "app"))
    assert result.exit_code == 0, result.output
    assert "In asset packs, which Google Play installs with the app: tiny\n" in result.stdout
    assert f"edge-transact install {tmp_path / 'app'}" in result.stdout
    models = AppModels.of_project(tmp_path / "app").models
    assert [(model.weights, model.pack) for model in models] == [("pack", "model_tiny"), ("assets", None)]
    assert [path.name for path in (tmp_path / "app" / ASSETS).iterdir() if path.is_dir()] == ["other"]
    pack = tmp_path / "app" / "model_tiny"
    assert "deliveryType = 'install-time'" in (pack / "build.gradle").read_text()
    assert {path.name: path.read_bytes() for path in (pack / "src/main/assets/edge/tiny").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "app/models/tiny").iterdir()
    }
    assert (pack / "src/main/assets/edge/tiny/params_shard_0.bin").samefile(
        tmp_path / "app/models/tiny/params_shard_0.bin"
    )
    assert (tmp_path / "app/models/tiny/params_shard_0.bin").stat().st_size == 5000


def test_the_smallest_models_travel_while_there_is_room(monkeypatch, tmp_path):
    made = [
        make_dist(tmp_path / f"d{size}", ["android"], f"edge_llama_q4f16_0_{size:08d}", [bytes(size)])
        for size in (3000, 1000, 2000)
    ]
    rest = sum((made[0] / f"{name}.json").stat().st_size for name in ("mlc-chat-config", "tensor-cache", "tokenizer"))
    monkeypatch.setattr(sources, "ASSETS_BYTES", 3000 + 2 * rest)

    def placed() -> list[str]:
        return [source.model.weights for source in sources.read_sources(made)]

    assert placed() == ["pack", "assets", "assets"]
    monkeypatch.setattr(sources, "ASSETS_BYTES", 1000 + rest)
    assert placed() == ["pack", "assets", "pack"]
    monkeypatch.setattr(sources, "PACKS_BYTES", 2000 + rest)
    assert placed() == ["install", "assets", "pack"]
    monkeypatch.setattr(sources, "PACK_BYTES", 1500 + rest)
    assert placed() == ["install", "assets", "install"]


def test_each_way_of_weights_to_phones(dist, other, tmp_path):
    for weights, packs in (("assets", None), ("pack", "model_{}"), ("fast-follow", "model_{}"), ("install", None)):
        models = bundle([dist, other], tmp_path / weights, weights=weights).models
        assert [(model.weights, model.pack, model.url) for model in models] == [
            (weights, packs and packs.format(name), None) for name in ("tiny", "other")
        ]
        assert models == Project.read(tmp_path / weights).models
        copies = list((tmp_path / weights).rglob("assets/edge/*/params_shard_0.bin"))
        assert len(copies) == (0 if weights == "install" else 2)
        assert "edge-transact install" in (tmp_path / weights / "README.md").read_text() or weights == "assets"
    words = ["bundle", dist, other, "-o", tmp_path / "web", "--weights", "https://example.org/llms/"]
    shown = run(*words).stdout
    url = "https://example.org/llms/tiny"
    assert f"Downloaded by the app at its first start: tiny, other\nUpload {tmp_path}/web/models/tiny to {url}" in shown
    assert "edge-transact install" not in shown + (tmp_path / "web" / "README.md").read_text()
    model, _ = AppModels.of_project(tmp_path / "web").models
    assert (model.weights, model.pack, model.url) == ("download", None, url)
    assert not list((tmp_path / "web").rglob("assets/edge/*/*.bin"))


def test_weights_in_an_app_that_google_play_would_not_take(dist, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ASSETS_BYTES", 1)
    shown = run("bundle", dist, "-o", tmp_path / "app", "--weights", "assets").stdout
    assert "warning: 0.0 MB of weights are in the app; Google Play takes 500.0 MB in all" in shown


@pytest.mark.parametrize(
    "weights",
    ["asset", "", "http://a.org/x", "https://", "https:///x", "https://a.org/x?y=1", "https://a b", "https://ä"],
)
def test_weights_from_nowhere(dist, tmp_path, weights):
    with pytest.raises(UsageError, match="is neither a known word nor the URL of a folder"):
        bundle([dist], tmp_path / "app", weights=weights)


@pytest.mark.parametrize("weights", ["pack", "fast-follow"])
def test_a_model_that_no_asset_pack_holds(dist, tmp_path, monkeypatch, weights):
    def refused() -> None:
        with pytest.raises(UsageError, match=r"Google Play doesn't take tiny, 0\.0 MB"):
            bundle([dist], tmp_path / "app", weights=weights)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "PACK_BYTES", 10)
        refused()
    monkeypatch.setattr(sources, "PACKS_BYTES", 10)
    refused()


def test_asset_packs_have_names_of_their_own(tmp_path):
    made = [
        make_dist(tmp_path / name, ["android"], f"edge_llama_q4f16_0_{number:08d}")
        for number, name in enumerate(["A.b", "a-b", "a_b_", "7"])
    ]
    names = [source.model.pack for source in sources.read_sources(made, "pack")]
    assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in names) and len(set(names)) == 4


def test_a_file_that_was_changed_after_the_build(dist, tmp_path):
    (dist / "params_shard_1.bin").write_bytes(b"most")
    with pytest.raises(EdgeTransactError, match=r"params_shard_1\.bin changed after the build"):
        bundle([dist], tmp_path / "app")
    assert list(tmp_path.iterdir()) == [dist]
    (dist / "params_shard_1.bin").unlink()
    with pytest.raises(EdgeTransactError, match=r"params_shard_1\.bin is missing"):
        bundle([dist], tmp_path / "app")


def test_an_edited_configuration_goes_into_the_app(dist, tmp_path, caplog):
    """As `build` asks for where it knows no conversation template for MLC's engine."""
    edit_json(dist / "mlc-chat-config.json", conv_template={"name": "mine"})
    project = bundle([dist], tmp_path / "app")
    assert "mlc-chat-config.json was edited after the build" in caplog.text
    (file,) = (file for file in project.models[0].files if file.path == "mlc-chat-config.json")
    text = (dist / file.path).read_bytes()
    assert (project.directory / ASSETS / "tiny" / file.path).read_bytes() == text
    assert (file.bytes, file.sha256) == (len(text), sha256(dist / file.path))


@pytest.mark.parametrize("text", ["", "[[[[", "[]", '{"model_type": "edge_llama"}'])
def test_a_broken_configuration_goes_into_no_app(dist, tmp_path, text):
    (dist / "mlc-chat-config.json").write_text(text)
    with pytest.raises(EdgeTransactError, match=r"mlc-chat-config\.json (cannot be read|is not JSON)"):
        bundle([dist], tmp_path / "app")


@pytest.mark.parametrize("copies", [0, 3, 6])
def test_killed_while_copying_the_old_project_stays(dist, tmp_path, monkeypatch, copies):
    before = bundle([dist], tmp_path / "app", app_name="before")
    copy, done = digests.copy, []

    def until_killed(source: Path, target: Path) -> str:
        if len(done) == copies:
            raise KilledError
        done.append(target)
        return copy(source, target)

    monkeypatch.setattr(digests, "copy", until_killed)
    with pytest.raises(KilledError):
        bundle([dist], tmp_path / "app", force=True)
    assert Project.read(tmp_path / "app") == before
    monkeypatch.undo()
    assert bundle([dist], tmp_path / "app", force=True).digest != before.digest
    assert {path.name for path in tmp_path.iterdir()} == {"app", "tiny"}


def test_a_project_is_not_replaced_without_force(dist, tmp_path):
    bundle([dist], tmp_path / "app")
    for keep in (False, True):
        with pytest.raises(EdgeTransactError, match="exists"):
            bundle([dist], tmp_path / "app", app_name="another", keep=keep)
    (tmp_path / "app" / "mine").touch()
    assert bundle([dist], tmp_path / "app", keep=True).directory == tmp_path / "app"
    assert (tmp_path / "app" / "mine").exists()


@pytest.mark.parametrize("name", ["edge/build.gradle", "bundle.json", "app/src/main/AndroidManifest.xml"])
def test_force_replaces_no_project_with_others_work_in_it(dist, tmp_path, name):
    bundle([dist], tmp_path / "app")
    with (tmp_path / "app" / name).open("a") as file:
        file.write("\n")
    before = (tmp_path / "app" / name).read_text()
    result = run("bundle", dist, "-o", tmp_path / "app", "--force")
    assert result.exit_code == 1 and f"{name} was changed" in result.stderr.replace("\n", "")
    assert (tmp_path / "app" / name).read_text() == before


def test_a_project_whose_models_json_was_changed_is_not_kept(dist, tmp_path):
    made = bundle([dist], tmp_path / "app")
    listed = tmp_path / "app" / ASSETS / "models.json"
    before, at = listed.read_bytes(), listed.read_bytes().index(made.models[0].files[0].sha256.encode())
    listed.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])  # still a hex digit
    with pytest.raises(EdgeTransactError, match="exists"):
        bundle([dist], tmp_path / "app", keep=True)
    bundle([dist], tmp_path / "app", force=True, keep=True)
    assert listed.read_bytes() == before


def test_json_says_where_things_are(kept, tmp_path):
    made = said("bundle", kept, "-o", tmp_path / "app", "--application-id", "com.x.y")
    assert made["project"] == str(tmp_path / "app") and made["application_id"] == "com.x.y"
    assert Path(made["package_config"]).is_file()
    assert [(model["id"], model["weights"]) for model in made["models"]] == [("tiny", "assets")]
    assert Path(made["models"][0]["path"]).is_dir()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--application-id", "chat"], "has no dot"),
        (["--app-name", " "], "--app-name is empty"),
        (["--application-id", "org.$(reboot).x"], "part of a Java package"),
    ],
)
def test_names_that_are_none(kept, tmp_path, options, words):
    result = run("bundle", str(kept), "-o", str(tmp_path / "app"), *options)
    assert result.exit_code == 2 and words in result.stderr
    assert not (tmp_path / "app").exists()
