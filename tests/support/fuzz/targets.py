"""What we parse ourselves, given any bytes: each target refuses them with a sentence, or holds its promise.

A promise is that of an independent reader of the same format where there is one; else what was read, written and read
again is the same, or parts are the whole.
"""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import wraps
from itertools import pairwise
from pathlib import Path

from gguf import GGUFReader

from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking.records.lines import MalformedLine, parse_line
from edge_transact.benchmarking.records.log import read_records, to_line
from edge_transact.benchmarking.records.plan import parse_lengths
from edge_transact.checkpoint import reader
from edge_transact.checkpoint.schema import Configuration
from edge_transact.errors import EdgeTransactError
from edge_transact.inputs import gguf, pieces, rows
from edge_transact.inputs.shares import share_of
from edge_transact.reading import checked, read_object
from edge_transact.widths import LayerWidths, WidthPlan, read_widths

_directory = tempfile.TemporaryDirectory(prefix="edge-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
SCRATCH = Path(_directory.name)
SOURCE = WidthPlan(
    hidden_size=64,
    vocab_size=128,
    tie_word_embeddings=True,
    attention_bias=False,
    mlp_bias=False,
    layers=(LayerWidths(8, 4, 16, 16, 96),) * 3,
)

TARGETS: dict[str, Callable[[bytes], None]] = {}


def target(parse: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Registers a target under its function's name. A refusal is a sentence of ours, for any bytes."""

    @wraps(parse)
    def run(data: bytes) -> None:
        with suppress(EdgeTransactError):
            parse(data)

    TARGETS[parse.__name__] = run
    return run


def file_of(data: bytes, name: str) -> Path:
    """A file with these bytes."""
    path = SCRATCH / name
    path.write_bytes(data)
    return path


@target
def safetensors_header(data: bytes) -> None:
    """What we read is what the header says, as Python's JSON has it."""
    ours = reader._read_header(file_of(data, "model.safetensors"))
    said = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    said.pop("__metadata__", None)
    assert {name: (each.dtype, each.shape) for name, each in ours.items()} == {
        name: (each["dtype"], tuple(each["shape"])) for name, each in said.items()
    }


@target
def gguf_file(data: bytes) -> None:
    """What we read, llama.cpp's own reader reads as well, with the same tensors."""
    path = file_of(data, "model.gguf")
    model = gguf._Model(path, gguf._open(path))
    shapes = {tensor.name: tuple(tensor.shape) for tensor in GGUFReader(path).tensors}
    assert {name: tuple(tensor.shape) for name, tensor in model.tensors.items()} == shapes
    assert model.plan.num_hidden_layers and model.config["hidden_size"] == model.plan.hidden_size
    for _, tensor in model.values():
        assert tensor.numel()


@target
def widths(data: bytes) -> None:
    """A file of widths gives a plan within its source's, and the plan's own list gives the same plan."""
    plan = read_widths(file_of(data, "widths.json"), SOURCE)
    for own, whole in zip(plan.layers, SOURCE.layers, strict=True):
        values, most = list(asdict(own).values()), list(asdict(whole).values())
        assert all(0 <= value <= bound for value, bound in zip(values, most, strict=True))
        # A layer has attention, with all that it takes, or nothing of it.
        assert own.has_attention == all(values[:-1]) == any(values[:-1])
    assert read_widths(file_of(json.dumps(plan.to_list()).encode(), "widths.json"), SOURCE) == plan


@target
def config_widths(data: bytes) -> None:
    """What a ``config.json`` that its schema lets pass says of widths gives a plan; its sparse map, the same plan."""
    config = read_object(file_of(data, "config.json"))
    checked(Configuration, config, "config.json")
    plan = WidthPlan.from_config(config)
    again = config | asdict(plan.widest) | {"per_layer_config": plan.per_layer_config(), "head_dim": plan.head_dim}
    assert WidthPlan.from_config(again) == plan


@target
def manifest(data: bytes) -> None:
    """A DIST's manifest, written again, reads as it was."""
    read = Manifest.read(file_of(data, "manifest.json").parent)
    values = vars(read) | {"model": asdict(read.plan), "widths": read.plan.to_list()}
    del values["plan"], values["model"]["layers"]
    assert _same(vars(Manifest.read(file_of(json.dumps(values).encode(), "manifest.json").parent)), vars(read))


@target
def bench_line(data: bytes) -> None:
    """A runner's line is none of ours, or is malformed, or gives its fields back."""
    line = parse_line(data.decode("utf-8", "replace"), "run")
    if line is not None and not isinstance(line, MalformedLine):
        text = json.dumps({"kind": line.kind, "run": "run", **asdict(line)})
        assert _same(asdict(parse_line(text, "run")), asdict(line))


@target
def bench_log(data: bytes) -> None:
    """The records of a log, written again, read as they were."""
    records = read_records(file_of(data, "log.jsonl"))
    text = "".join(map(to_line, records))
    assert _same([asdict(record) for record in read_records(file_of(text.encode(), "log.jsonl"))],
                 [asdict(record) for record in records])  # fmt: skip


@target
def lengths(data: bytes) -> None:
    """Lengths, written again, read as they were."""
    found = parse_lengths(data.decode("utf-8", "replace"))
    assert parse_lengths(",".join(f"{each.prefill_tokens}+{each.decode_tokens}" for each in found)) == found


@target
def text_share(data: bytes) -> None:
    """A TEXT and its weight are the words that were given, or the whole is a TEXT."""
    text = data.decode("utf-8", "replace")
    share = share_of(text)
    assert share.text == text or (share.weight > 0 and text.startswith(f"{share.text}="))


@target
def text_pieces(data: bytes) -> None:
    """However a document is cut, its parts are the document."""
    whole, starts = _cuts(data)
    path = file_of(whole, "text.txt")
    with rows.reading(path):
        found = [row for piece in _pieces(path, starts) for row in piece._all()]
    assert "".join(row.text if isinstance(row, pieces.Part) else row for row in found).encode() == whole


@target
def row_pieces(data: bytes) -> None:
    """However a file of JSON lines is cut, the pieces' rows are its rows."""
    whole, starts = _cuts(data)
    path = file_of(whole, "rows.jsonl")
    with rows.reading(path):
        expected = list(rows.rows_of_lines(whole.split(b"\n"), "whole"))
        assert [row for piece in _pieces(path, starts) for row in piece._all()] == expected


def _cuts(data: bytes) -> tuple[bytes, list[int]]:
    """A text, and where to cut it: the first bytes, up to a zero, in shares of 256."""
    places, _, whole = data.partition(b"\0")
    return whole, sorted({place * len(whole) // 256 for place in places} | {0, len(whole)})


def _pieces(path: Path, starts: list[int]) -> list[pieces.FilePiece]:
    size = path.stat().st_size
    return [pieces.FilePiece(path, size, start, stop) for start, stop in pairwise(starts)]


def _same(first: object, second: object) -> bool:
    """Whether two values are written alike: NaN is NaN."""
    return json.dumps(first, default=repr) == json.dumps(second, default=repr)
