"""Files from outside: what isn't a plain file of bounded size and depth is named, with what is wrong with it."""

import os

import pytest
from pydantic import BaseModel, ConfigDict

from edge_transact.errors import EdgeTransactError
from edge_transact.reading import read_json, read_model, read_object, read_text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not JSON: EOF"),
        (b"{", "is not JSON: EOF"),
        (b"[" * 100_000, "is not JSON: recursion limit"),
        (b"1" * 5000, "is not JSON: number out of range"),
        (b'"\\ud800"', "is not JSON: unexpected end of hex escape"),
        (b"\xef\xbb\xbf{}", "is not plain UTF-8: a byte order mark"),
        ("{}".encode("utf-16"), "is not plain UTF-8: it is UTF-16"),
        (b'"\xff"', "is not plain UTF-8: 'utf-8' codec can't decode byte 0xff"),
        (b"[]", "is not a JSON object"),
    ],
)
def test_content_that_is_no_object_is_named(tmp_path, content, problem):
    file = tmp_path / "some.json"
    file.write_bytes(content)
    with pytest.raises(EdgeTransactError, match=f"some.json {problem}"):
        read_object(file)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (os.mkfifo, "is a FIFO, not a file"),
        (os.mkdir, "can't be read: Is a directory"),
        (lambda path: os.symlink("/dev/zero", path), "is a device, not a file"),
        (lambda path: os.symlink(path, path), "can't be read: Too many levels of symbolic links"),
    ],
)
def test_what_may_never_end_is_not_opened(tmp_path, make, problem):
    make(tmp_path / "some.json")
    with pytest.raises(EdgeTransactError, match=f"some.json {problem}"):
        read_json(tmp_path / "some.json")


def test_names_and_sizes(tmp_path):
    with pytest.raises(EdgeTransactError, match=r"a\\0b can't be read: embedded null byte"):
        read_json(tmp_path / "a\0b")
    with pytest.raises(EdgeTransactError, match="can't be read: File name too long"):
        read_json(tmp_path / ("a" * 300))
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "none.json")
    assert read_object(tmp_path / "none.json", optional=True) == {}
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(EdgeTransactError, match="sparse has more than 67,108,864 bytes"):
        read_text(tmp_path / "sparse")


def test_a_schema_names_field_value_and_what_is_allowed(tmp_path):
    class Sizes(BaseModel):
        model_config = ConfigDict(strict=True)
        layers: int

    (tmp_path / "sizes.json").write_text('{"layers": "12"}')
    with pytest.raises(
        EdgeTransactError, match=r"sizes.json cannot be read \(layers is '12': Input should be a valid int"
    ):
        read_model(Sizes, tmp_path / "sizes.json")
