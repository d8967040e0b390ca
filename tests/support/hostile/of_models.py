"""Cases of checkpoints and GGUF files."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from tests.support.hostile.case import DEEP, OF_ANY_FILE, OF_JSON, OF_TEXT, VALUES, Case, naming, on, put, set_json

PRUNE = ("prune", "model", "--ratio", "0.3", "--method", "magnitude", "--no-compensate", "-o", "out")
EVAL = ("eval", "model", "--text", "text.txt", "--max-windows", "1")
INSPECT = ("inspect", "model")
EXPORT = ("export", "model", "--type", "f16", "-o", "out.gguf")
PLAN = (*PRUNE, "--dry-run")
BUILD_PLAN = ("build", "model", "--target", "host", "-o", "out", "--dry-run")
READERS = (INSPECT, PLAN, EXPORT, EVAL, BUILD_PLAN)
NEEDS = ("model", "text.txt")

SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings",
)  # fmt: skip
FIELDS = (
    *SIZES, "rms_norm_eps", "rope_parameters", "rope_theta", "rope_scaling", "tie_word_embeddings", "attention_bias",
    "mlp_bias", "architectures", "model_type", "hidden_act", "bos_token_id", "eos_token_id", "pad_token_id", "dtype",
    "initializer_range", "quantization_config", "auto_map", "per_layer_config", "qk_head_dim", "v_head_dim",
    "no_rope_layers", "use_qk_norm", "attention_out_bias", "sliding_window", "layer_types", "use_cache",
)  # fmt: skip
NESTED = [
    *(("rope_parameters", key) for key in ("rope_theta", "rope_type", "factor", "partial_rotary_factor")),
    *(("per_layer_config", layer) for layer in ("0", "3", "4", "-1", "x", "1" * 5000)),
    *(("per_layer_config", "1", key) for key in ("num_attention_heads", "intermediate_size", "v_head_dim", "x")),
]
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def of_models(base: Path) -> Iterator[Case]:
    """All cases of checkpoints."""
    yield from _configs()
    yield from _scaled_rope()
    yield from _files(base)
    yield from _safetensors(base)
    yield from _indexes()
    yield from _tokenizers(base)
    yield from _chat_templates()


def _set(name: str, keys: tuple[str | int, ...], raw: str) -> Callable[[Path], None]:
    return lambda work: set_json(work / name, keys, raw)


def _configs() -> Iterator[Case]:
    turn = count()
    for field in FIELDS:
        for value, raw in VALUES.items():
            wrong = field in SIZES and value not in ("missing", "null", "0", "10^9")
            yield Case(
                "config.json", f"{field} is {value}", READERS[next(turn) % 5],
                naming("config.json", field, "model: ", "model "),
                _set("model/config.json", (field,), raw), not wrong, NEEDS,
            )  # fmt: skip
    for keys in NESTED:
        for value, raw in VALUES.items():
            if keys[-1] == "1" * 5000 and value != "map":
                continue
            yield Case(
                "config.json", f"{'.'.join(key[:20] for key in keys)} is {value}", READERS[next(turn) % len(READERS)],
                naming("config.json", "model: ", *keys), _set("model/config.json", keys, raw), True, NEEDS,
            )  # fmt: skip


def _scaled_rope() -> Iterator[Case]:
    """RoPE's scaling, of which a field is missing or wrong."""
    turn = count()
    for kind in ("llama3", "yarn", "longrope", "linear", "dynamic", "proportional"):
        for field in (*LLAMA3, "short_factor", "beta_fast"):
            for value in ("missing", "text", "-1", "0", "NaN", "10^400", "list", "nested"):
                if kind in ("linear", "dynamic", "proportional") and value != "text":
                    continue

                def harm(work: Path, kind: str = kind, field: str = field, raw: str = VALUES[value]) -> None:
                    rope = {"rope_type": kind, "rope_theta": 1e4, **LLAMA3}
                    set_json(work / "model/config.json", ("rope_parameters",), json.dumps(rope))
                    set_json(work / "model/config.json", ("rope_parameters", field), raw)

                yield Case(
                    "config.json", f"{kind}'s {field} is {value}", (EVAL, EXPORT, PLAN)[next(turn) % 3],
                    naming("config.json", "RoPE", field), harm, True, NEEDS,
                )  # fmt: skip


def _files(base: Path) -> Iterator[Case]:
    turn = count()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        damages = OF_ANY_FILE | (OF_JSON if name.endswith(".json") else {})
        for damage, harm in damages.items():
            needed = name in ("config.json", "model.safetensors")
            # `inspect` needs no weights.
            opens = INSPECT if name == "config.json" else ("explain", "model")
            commands = (opens, READERS[1 + next(turn) % 4]) if needed else (EVAL, EXPORT)
            # A flip may change a space, and a header may be padded.
            of_json = damage in ("a byte order mark", "all but a byte") and name.endswith(".json")
            harmless = damage.startswith("flipped") or not needed or of_json
            for command in commands:
                yield Case(
                    name, damage, command, naming(name, "model is", "model has", "model: ", "tokenizer"),
                    on(f"model/{name}", harm), harmless, NEEDS,
                )  # fmt: skip
    for damage, harm in (OF_ANY_FILE | OF_JSON).items():
        yield Case(
            "generation_config.json", damage, EVAL, naming("generation_config", "can't load model"),
            on("model/generation_config.json", harm), True, NEEDS,
        )  # fmt: skip
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "temperature", "top_p", "transformers_version"):
        for value, raw in VALUES.items():
            yield Case(
                "generation_config.json", f"{key} is {value}", (*BUILD_PLAN[:-1], "--dry-run"),
                naming("generation_config", key), _set("model/generation_config.json", (key,), raw), True, NEEDS,
            )  # fmt: skip


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def safetensors(header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


FIRST = "model.embed_tokens.weight"


def _headers(base: Path) -> Iterator[tuple[str, bytes]]:
    header, data = parts(base / "model/model.safetensors")
    size = len(safetensors(header, data))
    text = json.dumps(header).encode()
    for length in (0, 1, 7, len(text) - 1, len(text) + 1, size - 8, size, 1 << 31, 1 << 40, 1 << 63, (1 << 64) - 1):
        yield f"a header of {length} bytes", safetensors(header, data, length)
    raw = {"not JSON": b"{" * 9, "a list": b"[]", "nested": DEEP.encode(), "NULs": bytes(100), "empty map": b"{}"}
    raw |= {"UTF-16": text.decode().encode("utf-16"), "a byte order mark": b"\xef\xbb\xbf" + text}
    raw |= {"a huge number": b'{"a": 1' + b"0" * 5000 + b"}", "bytes": b'{"\xff\xfe": 1}'}
    for name, content in raw.items():
        yield f"header is {name}", safetensors(content, data)
    for share in (0, 1, 7, 8, 9, 8 + len(text) // 2, 8 + len(text), size // 2, size - 1):
        yield f"cut at {share}", safetensors(header, data)[:share]
    for extra in (1, 4096):
        yield f"{extra} bytes more", safetensors(header, data) + bytes(extra)
    begin, end = header[FIRST]["data_offsets"]
    values: dict[str, list[Any]] = {
        "dtype": ["F64", "I8", "I32", "F8_E4M3", "BOOL", "C64", "f32", "nope", "", None, 5, [], {}],
        "shape": [
            [], [-1024, -128], [10**9, 10**9], [0, 128], [1024, 128, 1], ["1024", 128], [1024.5, 128], [1] * 10**5,
            [1 << 32, 1 << 32], [10**30, 1], None, 5, "x", {}, [None, None], [512, 256], [128, 1024], [True, 131072],
        ],
        "data_offsets": [
            [end, begin], [-4, end], [begin, end + 4], [begin + 4, end], [begin, end - 4], [0, 0], [1 << 62, 1 << 63],
            [10**30, 10**30], [-(10**30), end], [None, None], ["0", "4"], [begin], [begin, end, end], [], None, 5, "x",
            [0.5, 1.5], [begin, len(data)], [begin, 1 << 64],
        ],
    }  # fmt: skip
    for key, wrong in values.items():
        for index, value in enumerate(wrong):
            said = json.dumps(value)
            changed = header | {FIRST: header[FIRST] | {key: value}}
            yield f"{key} is {said if len(said) < 40 else f'long ({index})'}", safetensors(changed, data)
        rest = {name: entry for name, entry in header[FIRST].items() if name != key}
        yield f"{key} is missing", safetensors(header | {FIRST: rest}, data)
    same = {name: entry | {"data_offsets": [begin, end]} for name, entry in header.items() if "metadata" not in name}
    yield "all tensors at one place", safetensors(same, data)
    names = [name for name in header if name != "__metadata__"]
    for name, value in {"null": None, "a list": [1], "a number": 1, "an empty map": {}}.items():
        yield f"a tensor is {name}", safetensors(header | {FIRST: value}, data)
    yield "a tensor is missing", safetensors({name: header[name] for name in header if name != FIRST}, data)
    yield "a tensor has another name", safetensors({f"{name}x": header[name] for name in names}, data)
    yield "a name is empty", safetensors({"" if name == FIRST else name: header[name] for name in names}, data)
    yield "a name has a NUL", safetensors({f"{name}\0": header[name] for name in names}, data)
    for name, value in {"a list": [1], "of numbers": {"format": 1}, "of maps": {"format": {}}, "nothing": None}.items():
        yield f"__metadata__ is {name}", safetensors(header | {"__metadata__": value}, data)
    gap = {
        name: entry | {"data_offsets": [place + 4 * (place > begin) for place in entry["data_offsets"]]}
        for name, entry in header.items()
        if name != "__metadata__"
    }
    yield "a gap", safetensors(gap, data[:end] + bytes(4) + data[end:])
    swapped = dict(zip(names, [header[name] for name in reversed(names)], strict=True))
    yield "tensors have each other's entries", safetensors(swapped, data)
    many = {f"x{index}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for index in range(100_000)}
    yield "100,000 empty tensors", safetensors(header | many, data)
    text = text.replace(
        b"{", b'{"' + FIRST.encode() + b'": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, ', 1
    )
    yield "a tensor twice", safetensors(text, data)


def _safetensors(base: Path) -> Iterator[Case]:
    turn = count()
    harmless = ("twice", "100,000", "__metadata__", "another's", "is an empty map")
    for damage, content in _headers(base):
        for command in dict.fromkeys((INSPECT, READERS[1 + next(turn) % 4])):
            yield Case(
                "model.safetensors", damage, command, naming("model.safetensors", "model: tensor", "model has"),
                lambda work, content=content: put(work / "model/model.safetensors", content),
                any(word in damage for word in harmless), NEEDS,
            )  # fmt: skip
    for name, bits in {"NaN": 0x7FC00000, "infinity": 0x7F800000, "1e38": 0x7E967699, "denormal": 1}.items():
        for number in (1, 131_072):
            for command in (PRUNE, EVAL, EXPORT):

                def harm(work: Path, bits: int = bits, number: int = number) -> None:
                    header, data = parts(work / "model/model.safetensors")
                    changed = bytearray(data)
                    changed[: 4 * number] = struct.pack("<I", bits) * number
                    put(work / "model/model.safetensors", safetensors(header, bytes(changed)))

                yield Case(
                    "weights", f"{number} times {name}", command, "finite|NaN|nan|F16|too large|infinit", harm,
                    True, NEEDS,
                )  # fmt: skip


def _indexes() -> Iterator[Case]:
    index = "model/model.safetensors.index.json"
    shard = "model-00001-of-00001.safetensors"

    def sharded(work: Path) -> None:
        names = parts(work / "model/model.safetensors")[0]
        (work / "model/model.safetensors").rename(work / "model" / shard)
        weights = {name: shard for name in names if name != "__metadata__"}
        put(work / index, json.dumps({"metadata": {"total_size": 5}, "weight_map": weights}))

    def case(damage: str, harm: Callable[[Path], object], command: tuple[str, ...], may_work: bool) -> Case:
        def both(work: Path) -> None:
            sharded(work)
            harm(work)

        return Case("index.json", damage, command, naming("model", shard), both, may_work, NEEDS)

    yield case("none", lambda work: None, INSPECT, True)
    for damage, harm in (OF_ANY_FILE | OF_JSON).items():
        may_work = damage.startswith("flipped") or damage == "a byte order mark"
        yield case(damage, on(index, harm), (INSPECT, PLAN)[len(damage) % 2], may_work)
    for value, raw in VALUES.items():
        yield case(f"weight_map is {value}", _set(index, ("weight_map",), raw), INSPECT, False)
        yield case(f"metadata is {value}", _set(index, ("metadata",), raw), INSPECT, True)
        yield case(f"a file is {value}", _set(index, ("weight_map", FIRST), raw), PLAN, value == "missing")
    files = (".", "..", "/", "../model/" + shard, "/etc/passwd", "/dev/zero", "a/b", "x" * 5000, "*", "\\0", "~", "-o")
    for name in files:
        raw = f'"{name}"' if name != "\\0" else '"\\u0000"'
        yield case(f"a file is {name[:20]}", _set(index, ("weight_map", FIRST), raw), EXPORT, name.endswith(shard))


def _tokenizers(base: Path) -> Iterator[Case]:
    turn = count()
    commands = (EVAL, EXPORT, (*PRUNE, "--calibration", "text.txt"))
    says = naming("tokenizer", "vocabulary", "token")
    keys: list[tuple[str | int, ...]] = [
        (key,) for key in json.loads((base / "model/tokenizer.json").read_text())
    ]  # fmt: skip
    keys += [("model", key) for key in ("type", "vocab", "merges", "unk_token", "byte_fallback")]
    keys += [("added_tokens", 0), ("added_tokens", 0, "id"), ("added_tokens", 0, "content")]
    keys += [("model", "vocab", "the"), ("pre_tokenizer", "type"), ("normalizer", "normalizers")]
    for where in keys:
        for value, raw in VALUES.items():
            yield Case(
                "tokenizer.json", f"{'.'.join(map(str, where))} is {value}", commands[next(turn) % 3], says,
                _set("model/tokenizer.json", where, raw), True, NEEDS,
            )  # fmt: skip
    for regex in ("(a+)+$", "(", "(?<=a*)", "." * 10_000, "(" * 2000 + ")" * 2000):
        yield Case(
            "tokenizer.json", f"its pattern is {regex[:12]}", EVAL, says,
            _set("model/tokenizer.json", ("pre_tokenizer", "pattern", "Regex"), json.dumps(regex)), True, NEEDS,
        )  # fmt: skip
    more = ("chat_template", "added_tokens_decoder", "auto_map", "extra_special_tokens", "clean_up_tokenization_spaces")
    for key in (*json.loads((base / "model/tokenizer_config.json").read_text()), *more):
        for value, raw in VALUES.items():
            yield Case(
                "tokenizer_config.json", f"{key} is {value}", commands[next(turn) % 3], naming("token", "chat"),
                _set("model/tokenizer_config.json", (key,), raw), True, NEEDS,
            )  # fmt: skip


TEMPLATES = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "10 GB": "{{ 'a' * 10000000000 }}",
    "a wide format": "{{ '%10000000000d' % 1 }}",
    "a wide line": "{{ 'a'.center(10 ** 10) }}",
    "doubling": "{% set n = namespace(t='aa') %}{% for i in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "zero": "{{ 1 / 0 }}",
    "types": "{{ 1 + 'a' }}",
    "include": "{% include 'x' %}",
    "import": "{% import 'os' as os %}",
    "a wide range": "{% for i in range(10 ** 12) %}{% endfor %}",
    "syntax": "{% for %}",
    "unclosed": "{{ messages",
    "nothing": "{{ '' }}",
    "spaces": "   ",
    "raises": "{{ raise_exception('no') }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch pwned').read() }}",
    "undefined": "{{ nothing.at.all }}",
    "lone surrogate": "{{ '\\ud800' }}",
    "NUL": "{{ 'a\\0b' }}{{ messages[0].content }}",
    "brackets": "{{" + "(" * 3000 + ")" * 3000 + "}}",
    "huge": "x" * 3_000_000,
}


def _chat_templates() -> Iterator[Case]:
    turn = count()
    for damage, text in TEMPLATES.items():
        for place in ("chat_template.jinja", "tokenizer_config.json"):

            def harm(work: Path, text: str = text, place: str = place) -> None:
                if place.endswith("jinja"):
                    put(work / "model" / place, text.encode("utf-8", "surrogatepass"))
                else:
                    set_json(work / "model" / place, ("chat_template",), json.dumps(text))

            command = (EVAL, (*PRUNE, "--calibration", "text.txt"))[next(turn) % 2]
            yield Case("chat template", f"{damage}, in {place}", command, "[Tt]emplate", harm, True, NEEDS)
    for damage, change in (OF_ANY_FILE | OF_TEXT).items():

        def harm_file(work: Path, change: Callable[[Path], object] = change) -> None:
            put(work / "model/chat_template.jinja", "{{ messages[0].content }}")
            change(work / "model/chat_template.jinja")

        yield Case("chat template", damage, EVAL, "[Tt]emplate", harm_file, True, NEEDS)


# GGUF

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _FLOAT, _STRING, _ARRAY, _UINT64 = 4, 6, 8, 9, 10


class Gguf:
    """A GGUF file's parts: version, counts, metadata (name to type and bytes), tensors (name, dims, type, offset)."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 4
        self.magic, self.version = content[:4], self._read("<I")
        self.tensor_count, self.kv_count = self._read("<Q"), self._read("<Q")
        self.metadata: dict[bytes, tuple[int, bytes]] = {}
        for _ in range(self.kv_count):
            name, kind = self._text(), self._read("<I")
            begin = self._at
            self._skip(kind)
            self.metadata[name] = (kind, content[begin : self._at])
        self.tensors = [
            [self._text(), [self._read("<Q") for _ in range(self._read("<I"))], self._read("<I"), self._read("<Q")]
            for _ in range(self.tensor_count)
        ]
        self.data = content[-(-self._at // 32) * 32 :]

    def _read(self, layout: str) -> int:
        (value,) = struct.unpack_from(layout, self._content, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _text(self) -> bytes:
        length = self._read("<Q")
        self._at += length
        return self._content[self._at - length : self._at]

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            self._text()
        elif kind == _ARRAY:
            inner, length = self._read("<I"), self._read("<Q")
            for _ in range(length):
                self._skip(inner)
        else:
            self._at += _SIZES[kind]

    def write(self) -> bytes:
        """The file."""
        head = self.magic + struct.pack("<IQQ", self.version, self.tensor_count, self.kv_count)
        for name, (kind, value) in self.metadata.items():
            head += text(name) + struct.pack("<I", kind) + value
        for name, dims, kind, offset in self.tensors:
            head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        return head + bytes(-len(head) % 32) + self.data


def text(value: bytes) -> bytes:
    """A string as GGUF has it."""
    return struct.pack("<Q", len(value)) + value


_WRONG_METADATA = {
    "-1": (5, struct.pack("<i", -1)),
    "0": (4, bytes(4)),
    "10^9": (4, struct.pack("<I", 10**9)),
    "2^63": (10, struct.pack("<Q", 1 << 63)),
    "NaN": (6, struct.pack("<f", float("nan"))),
    "text": (8, text(b"text")),
    "a long text": (8, struct.pack("<Q", 1 << 40)),
    "true": (7, b"\1"),
    "an empty array": (9, struct.pack("<IQ", 4, 0)),
    "an array of 10^12": (9, struct.pack("<IQ", 4, 10**12)),
    "an array of 10^12 bytes": (9, struct.pack("<IQ", 0, 10**12)),
    "an array of 2^63 texts": (9, struct.pack("<IQ", 8, 1 << 63)),
    "nested arrays": (9, struct.pack("<IQ", 9, 1) * 20_000 + struct.pack("<IQ", 4, 0)),
    "of type 99": (99, bytes(8)),
    "an array of type 99": (9, struct.pack("<IQ", 99, 5)),
    "not UTF-8": (8, text(b"\xff\xfe\xfd")),
    "deep JSON": (8, text(DEEP.encode())),
    "an empty text": (8, text(b"")),
    "a JSON map": (8, text(b'{"num_hidden_layers": 1000000000, "0": [[-1]], "1": "x"}')),
}  # fmt: skip


def of_gguf(base: Path) -> Iterator[Case]:
    """All cases of GGUF files."""
    turn = count()

    def case(damage: str, change: Callable[[Gguf], object], may_work: bool = False) -> Case:
        command = (
            ("inspect", "model.gguf"), ("prune", "model.gguf", *PRUNE[2:]), ("export", "model.gguf", *EXPORT[2:]),
        )[next(turn) % 3]  # fmt: skip

        def harm(work: Path) -> None:
            file = Gguf((work / "model.gguf").read_bytes())
            change(file)
            put(work / "model.gguf", file.write())

        return Case("GGUF", damage, command, naming("model.gguf", "config.json: "), harm, may_work, ("model.gguf",))

    def put_in(name: str, at: int, value: Any) -> Callable[[Gguf], None]:
        def change(file: Gguf) -> None:
            file.tensors[at if name != "type" else 1][["name", "dims", "type", "offset"].index(name)] = value

        return change

    for damage, harm in OF_ANY_FILE.items():
        may_work = damage.startswith("flipped") or damage in ("a byte more", "twice")
        yield Case(
            "GGUF", damage, ("inspect", "model.gguf"), naming("model.gguf"), on("model.gguf", harm), may_work,
            ("model.gguf",),
        )  # fmt: skip
    for magic in (b"GGML", b"FUGG", b"\0\0\0\0", b"PK\3\4"):
        yield case(f"magic {magic!r}", lambda file, magic=magic: setattr(file, "magic", magic))
    for version in (0, 1, 2, 4, 1 << 24, (1 << 32) - 1):
        # Version 2 has the layout of version 3.
        yield case(f"version {version}", lambda file, v=version: setattr(file, "version", v), version == 2)
    for field in ("tensor_count", "kv_count"):
        for number in (0, 1, 2, 10**5, 10**12, 1 << 63, (1 << 64) - 1):
            yield case(f"{field} {number}", lambda file, f=field, n=number: setattr(file, f, n))
    stored = Gguf((base / "model.gguf").read_bytes())
    keys = [*stored.metadata, b"general.alignment", b"llama.rope.scaling.type", b"edge_transact.config",
            b"edge_transact.rope_pairs", b"llama.rope.scaling.factor"]  # fmt: skip
    for key in keys:
        for value, entry in _WRONG_METADATA.items():

            def change(file: Gguf, key: bytes = key, entry: tuple[int, bytes] = entry) -> None:
                file.kv_count += key not in file.metadata
                file.metadata[key] = entry

            yield case(f"{key.decode()} is {value}", change, True)
        if key in stored.metadata:

            def without(file: Gguf, key: bytes = key) -> None:
                del file.metadata[key]
                file.kv_count -= 1

            yield case(f"without {key.decode()}", without, True)
    for alignment in (1, 3, 4096, 1 << 31):
        entry = (4, struct.pack("<I", alignment))

        def aligned(file: Gguf, entry: tuple[int, bytes] = entry) -> None:
            file.kv_count += 1
            file.metadata[b"general.alignment"] = entry

        yield case(f"alignment {alignment}", aligned, True)
    for kind in (1, 2, 3, 4, 8, 12, 30, 39, 99, (1 << 32) - 1):
        yield case(f"type {kind} of a matrix", put_in("type", 1, kind), True)
    for offset in (1, 31, 32, 1 << 30, 1 << 40, 1 << 63, (1 << 64) - 1):
        yield case(f"offset {offset}", put_in("offset", 3, offset), True)
    for dims in ([], [0, 0], [1], [1 << 20, 1 << 20], [1 << 32, 1 << 32], [1 << 63], [1] * 9, [127], [1] * 5000):
        yield case(f"dims {dims if len(dims) < 9 else len(dims)}", put_in("dims", 2, dims))
    for name in (b"", b"x" * 5000, b"\xff", b"token_embd.weight", b"blk.999999999999.attn_q.weight", b"a\0b"):
        yield case(f"a tensor is {name[:20]!r}", put_in("name", 4, name))
    yield case("all tensors at one place", lambda file: [entry.__setitem__(3, 0) for entry in file.tensors], True)
    yield case("no data", lambda file: setattr(file, "data", b""))
    yield case("half of the data", lambda file: setattr(file, "data", file.data[: len(file.data) // 2]))
