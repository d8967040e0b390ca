"""edge-transact.toml: written, validated to the line, changed with its comments kept, overridden by options."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from edge_transact import costs
from edge_transact.building.options import BuildOptions
from edge_transact.cli.build import _project
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.project import Build, Heal, Project, Prune, json_schema, read_project
from edge_transact.pruning.options import BUDGET_KEYS, PruneChoices
from tests.support.command import run


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def project(text: str) -> Project:
    Path("edge-transact.toml").write_text(text)
    return read_project(Path("edge-transact.toml"))


def asked(**given) -> Project:
    """What a build does when these options are given."""
    return _project(given)


def test_what_init_writes_is_valid_and_says_what_it_does():
    assert run("init", "demo:tiny", "--target", "host,android", "--context", "64").exit_code == 0
    written = read_project(Path("edge-transact.toml"))
    assert (written.model, written.build.target, written.build.context) == ("demo:tiny", ["host", "android"], 64)
    assert "# Leave this section out" in Path("edge-transact.toml").read_text()


def test_what_the_template_has_commented_out_are_the_defaults():
    run("init")
    uncommented = re.sub(r"^# (\w+ = )", r"\1", Path("edge-transact.toml").read_text(), flags=re.MULTILINE)
    written = project(uncommented)
    for key in ("shots", "bucket", "calibration", "calibration_tokens", "seed"):
        assert getattr(written.prune, key) == getattr(PruneChoices(), key), key
    assert written.build.context == costs.DEFAULT_CONTEXT
    assert written.build.prefill_chunk == costs.DEFAULT_PREFILL_CHUNK
    assert written.build.max_batch == BuildOptions().max_batch


@pytest.mark.parametrize(
    ("given", "quant"),
    [
        ((), "q4f16_0"),
        (("--target", "host"), "q4f32_1"),
        (("--quant", "q4f16_1"), "q4f16_1"),
        (("--quant", "q0f16"), None),
        (("--rounding", "best"), None),
        (("--engine", "mlc"), None),
    ],
)
def test_a_new_file_trains_through_the_grid_that_the_build_keeps(given, quant):
    run("init", "demo:tiny", *given)
    heal = read_project(Path("edge-transact.toml")).heal
    assert heal == Heal(cross_entropy=0.3, quant=quant)


def test_init_says_what_it_prunes():
    says = "demo:tiny, pruned as [prune] says (ratio 0.3), for android, host, into dist"
    assert says in run("init", "demo:tiny").stdout
    assert "(heads 2, intermediate 64)" in run("init", "--force", "--heads", "2", "--intermediate", "64").stdout
    project('model = "m"\n')
    assert "toml: m for " in run("init", "--force").stdout


def test_init_refuses_an_existing_file_and_changes_it_with_force():
    run("init", "demo:tiny")
    mine = Path("edge-transact.toml").read_text().replace("[build]", "# mine\n[build]   # of the phone")
    Path("edge-transact.toml").write_text(mine)
    refused = run("init", "demo:smollm2")
    assert refused.exit_code == 1 and "exists" in refused.stderr
    assert run("init", "--force", "--ratio", "0.4").exit_code == 0
    assert Path("edge-transact.toml").read_text() == mine.replace("ratio = 0.3", "ratio = 0.4", 1)


def test_a_ratio_takes_the_place_of_another_budget():
    project('model = "m"\n[prune]\nheads = 4\nintermediate = 64\nshots = 2\n')
    assert run("init", "--force", "--ratio", "0.4").exit_code == 0
    prune = read_project(Path("edge-transact.toml")).prune
    assert prune.model_dump(exclude_unset=True) == {"ratio": 0.4, "shots": 2}


def test_init_checks_what_it_is_given():
    for arguments, says in (
        (("--target", "androd"), "Did you mean 'android'?"),
        (("--quant", "q4f16"), "Did you mean 'q4f16_"),
        (("--ratio", "1.5"), "--ratio 1.5 is not between 0 and 1"),
    ):
        result = run("init", *arguments)
        assert result.exit_code == 2 and says in result.stderr
    assert not Path("edge-transact.toml").exists()


@pytest.mark.parametrize(
    ("text", "where", "fix"),
    [
        ('model = "m"\n\n[build]\ncontxt = 1024\n', "line 4: unknown key build.contxt", "Did you mean 'context'?"),
        ('model = "m"\n[biuld]\ncontext = 1\n', "line 2: unknown key biuld", "Did you mean 'build'?"),
        ('modle = "m"\n', "line 1: unknown key modle", "Did you mean 'model'?"),
        ('output = "m"\n', "model is missing", "model = "),
        ('model = "m"\n[build]\n# context = 1\ncontext = "1024"\n', "line 4: build.context is '1024'", "--json-schema"),
        ('model = "m"\n[build]\ncontext = 0\n', "line 3: build.context is 0", "--json-schema"),
        ('model = "m"\nbuild.context = 0\n', "line 2: build.context is 0", "--json-schema"),
        ('model = "m"\nbuild = { context = 0 }\n', "line 2: build.context is 0", "--json-schema"),
        ('model = "m"\n[build]\ntarget = ["host", "androd"]\n', "line 3: build.target: unknown 'androd'", "'android'"),
        ('model = "m"\n[build]\nquant = "q4f16_2"\n', "line 3: build.quant: unknown 'q4f16_2'", "q4f16_0"),
        ('model = "m"\n[prune]\nratio = 1.0\n', "line 3: prune.ratio is 1.0", "--json-schema"),
        ('model = "m"\n[prune]\nratio = nan\n', "line 3: prune.ratio is nan", "--json-schema"),
        ('model = "m"\n[prune]\nratio = 0.1\nheads = 2\n', "line 2: [prune]: ratio and heads", "Give one of ratio"),
        ('model = "m"\n[prune]\nshots = 2\n', "line 2: [prune]: no budget", "Give one of ratio"),
        ('model = "m"\n[build\n', "not TOML", "Correct that line"),
    ],
)
def test_a_mistake_is_named_by_line_key_and_value(text, where, fix):
    with pytest.raises(EdgeTransactError) as refused:
        project(text)
    assert refused.value.message.startswith("edge-transact.toml")
    assert where in refused.value.message
    assert fix in refused.value.fix


def test_a_list_may_be_a_string_as_on_the_command_line():
    assert project('model = "m"\n[build]\ntarget = "android, host"\n').build.target == ["android", "host"]
    for written in ("notes.txt", ["demo:sotu", "notes.txt"]):
        text = f'model = "m"\n[prune]\nratio = 0.5\ncalibration = {json.dumps(written)}\n'
        assert project(text).prune.calibration == written
        assert asked().prune.calibration == written
    with pytest.raises(EdgeTransactError, match=r"line 4: prune\.calibration is \[\]"):
        project('model = "m"\n[prune]\nratio = 0.5\ncalibration = []\n')


def test_options_override_the_file():
    written = 'output = "here"\n[prune]\nratio = 0.5\nshots = 4\n[build]\ntarget = ["android"]\ncontext = 256\n'
    project(f'model = "m"\n{written}')
    file = asked()
    assert (file.model, file.output) == ("m", "here")
    assert file.build == Build(target=["android"], context=256)
    assert (file.build.quant, file.build.prefill_chunk) == (None, None)
    assert (file.build.max_batch, file.build.engine) == (1, "tvm")
    assert file.prune.model_dump(exclude_unset=True) == {"ratio": 0.5, "shots": 4}
    overridden = asked(target="host", context=128, output="there", quant="q0f32")
    assert (overridden.build.target, overridden.build.context) == (["host"], 128)
    assert (overridden.output, overridden.build.quant) == ("there", "q0f32")


def test_a_budget_on_the_command_line_replaces_the_files():
    project('model = "m"\n[prune]\nratio = 0.5\nshots = 4\n')
    prune = asked(heads=6, intermediate=64).prune
    assert (prune.ratio, prune.heads, prune.intermediate, prune.shots) == (None, 6, 64, 4)


def test_a_model_on_the_command_line_leaves_the_file_alone():
    project('model = "m"\n[prune]\nratio = 0.5\n[build]\ncontext = 256\n')
    given = asked(model="other")
    assert (given.model, given.prune, given.build.context) == ("other", None, None)


def test_calibration_without_a_budget_is_for_a_rounding_that_reads_text():
    text = {"calibration": ["notes.txt"], "calibration_tokens": 4096}
    given = asked(model="m", rounding="gptq", **text)
    assert given.prune.budgets() == [] and given.prune.calibration_tokens == 4096
    project('model = "m"\n[prune]\ncalibration = "notes.txt"\n[build]\nrounding = "gptq"\n')
    assert asked().prune.calibration == "notes.txt"
    for rounding in ("search", "nearest", None):
        with pytest.raises(UsageError, match="no budget"):
            asked(model="m", rounding=rounding, **text)


def test_the_schema_knows_every_key_and_every_name():
    schema = json_schema()
    definitions = schema["$defs"]
    assert set(BUDGET_KEYS) <= set(definitions["Prune"]["properties"])
    assert "q4f16_0" in json.dumps(definitions["Build"]["properties"]["quant"])
    assert "android-cpu" in json.dumps(definitions["Build"]["properties"]["target"])
    assert schema["required"] == ["model"]
    printed = run("init", "--json-schema")
    assert json.loads(printed.stdout) == schema
    assert not Path("edge-transact.toml").exists()


def test_build_without_a_model_and_without_a_file_says_so_and_offers_the_demo():
    result = run("build", "--target", "host")
    assert result.exit_code == 2
    assert "edge-transact.toml" in result.stderr and "demo:smollm2" in result.stderr


@pytest.mark.slow
def test_build_in_a_project_directory_does_the_whole_job_and_reuses_it(own_cache):
    Path("corpus.txt").write_text("The state of the union is strong. " * 400)
    project(
        'model = "demo:tiny"\n[prune]\nintermediate = 160\ncalibration = "corpus.txt"\ncalibration_tokens = 512\n'
        '[heal]\ntrain = "corpus.txt"\ntrain_tokens = 512\ntrain_window = 64\nbatch_tokens = 128\n'
        '[build]\ntarget = ["android", "host"]\nquant = "q0f32"\ncontext = 64\nprefill_chunk = 32\n'
    )
    first = run("build", "--target", "host", "--json")
    assert first.exit_code == 0, first.stderr
    report = json.loads(first.stdout.splitlines()[-1])
    assert list(report["libraries"]) == ["host"]
    manifest = json.loads(Path("dist/manifest.json").read_text())
    assert {layer["intermediate_size"] for layer in manifest["widths"]} == {160}
    assert "nothing has changed" not in first.stderr

    again = run("build", "--target", "host", "--force", "--json")
    assert again.exit_code == 0, again.stderr
    for stage in ("prune demo:tiny", "heal pruned", "quantize to q0f32", "for host"):
        assert f"{stage}: nothing has changed" in again.stderr
    unchanged = json.loads(Path("dist/manifest.json").read_text())
    assert unchanged["files"] == manifest["files"]

    Path("corpus.txt").write_text("Other words calibrate other dims, perhaps. " * 400)
    changed = run("build", "--target", "host", "--force", "--json")
    assert "prune demo:tiny: nothing has changed" not in changed.stderr
    assert "for host: nothing has changed" in changed.stderr


def test_a_new_file_has_every_key_there_is():
    run("init")
    text = Path("edge-transact.toml").read_text()
    keys = {*Prune.model_fields, *Heal.model_fields, *Build.model_fields, *Project.model_fields}
    keys -= {"prune", "heal", "build"}
    assert {key for key in keys if not re.search(rf"\b{key} = ", text)} == set()
    for key, value in re.findall(r"^# +(\w+) = ((?:\"[^\"]*\"|[^:])*)", text, flags=re.MULTILINE):
        assert tomllib.loads(f"{key} = {value}")
    everything = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
    assert project(everything).model_dump(exclude_none=True)["prune"]["packing"] == "joined"
