"""Libraries for phones, looked into after they are made; and what the look finds."""

import io
import os
import subprocess
import tarfile

import pytest
from elftools.elf.elffile import ELFFile

from edge_transact.compiler.archive import (
    LIBRARY_SYMBOL,
    android_linker,
    archived,
    check_library,
    check_temporaries,
    link_android,
    write_archive,
)
from edge_transact.compiler.targets import TARGETS, get_target, library_name, system_lib_prefix
from edge_transact.errors import EdgeTransactError, UsageError
from tests.support.bionic import lacks, tvm_runtime
from tests.support.odd_models import MODEL_LIB


@pytest.mark.slow
def test_an_android_archive_has_host_and_device_objects(archives):
    with tarfile.open(archives["android"].path) as archive:
        assert sorted(archive.getnames()) == [f"{MODEL_LIB}_devc.o", "lib0.o"]
        source_text = b"".join(archive.extractfile(member).read() for member in archive)
    assert b"__kernel void" in source_text, "OpenCL is compiled on the phone, from source"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["android", "android-cpu", "iphone"])
def test_archives_pass_the_look(archives, name):
    check_library(archives[name].path, get_target(name), library_name(MODEL_LIB, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["android", "android-cpu"])
def test_android_archives_link_as_an_app_links_them(archives, tmp_path, name):
    linker = android_linker()
    if linker is None:
        pytest.skip("clang and lld are not installed")
    link_android(archives[name].path, tmp_path / "model.so", linker)
    with (tmp_path / "model.so").open("rb") as stream:
        elf = ELFFile(stream)
        names = {symbol.name for symbol in elf.get_section_by_name(".dynsym").iter_symbols()}
        assert system_lib_prefix(library_name(MODEL_LIB, name)) + LIBRARY_SYMBOL in names
        assert {segment["p_align"] for segment in elf.iter_segments("PT_LOAD")} == {16384}
    assert lacks(tmp_path / "model.so", executable=tvm_runtime()) == []


@pytest.mark.slow
@pytest.mark.needs("clang-19", "ld.lld-19")
def test_an_app_can_link_the_libraries_for_gpu_and_cpu(archives, tmp_path):
    with tarfile.open(tmp_path / "both.tar", "w") as both:
        for name in ("android", "android-cpu"):
            with tarfile.open(archives[name].path) as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    member.name = f"{name}-{member.name}"
                    both.addfile(member, content)
    link_android(tmp_path / "both.tar", tmp_path / "both.so", android_linker())
    with (tmp_path / "both.so").open("rb") as stream:
        names = {symbol.name for symbol in ELFFile(stream).get_section_by_name(".dynsym").iter_symbols()}
    assert {f"{MODEL_LIB}_{LIBRARY_SYMBOL}", f"{MODEL_LIB}_cpu_{LIBRARY_SYMBOL}"} <= names


@pytest.mark.slow
def test_another_prefix_or_format_is_noticed(archives):
    android = get_target("android")
    with pytest.raises(EdgeTransactError, match="has no symbol another_name_"):
        check_library(archives["android"].path, android, "another_name")
    with pytest.raises(EdgeTransactError, match="not an ELF object"):
        check_library(archives["iphone"].path, android, MODEL_LIB)


def _object(text: str, directory, *flags: str) -> bytes:
    import subprocess

    (directory / "x.c").write_text(text)
    subprocess.run(["cc", "-c", *flags, "-o", str(directory / "x.o"), str(directory / "x.c")], check=True)
    return (directory / "x.o").read_bytes()


def _archive(path, data: bytes):
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("lib0.o")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return path


def test_an_object_of_another_machine_is_not_for_a_phone(tmp_path):
    data = bytearray(_object("int f(void) { return 1; }", tmp_path))
    data[18:20] = (62).to_bytes(2, "little")  # e_machine: x86-64, whatever this machine is
    path = _archive(tmp_path / "x.tar", bytes(data))
    with pytest.raises(EdgeTransactError, match=r"lib0\.o is for EM_X86_64, not for EM_AARCH64"):
        check_library(path, get_target("android-cpu"), MODEL_LIB)


def test_a_symbol_that_nothing_resolves_is_named(tmp_path):
    path = tmp_path / "x.o"
    path.write_bytes(_object("void surprise(void); void f(void) { surprise(); }", tmp_path))
    with pytest.raises(EdgeTransactError, match="needs surprise"):
        check_library(path, get_target("host"), MODEL_LIB)


def test_memory_that_a_gpus_kernel_allocates_by_itself_is_noticed(tmp_path):
    text = "void* TVMBackendAllocWorkspace(); void* f(void) { return TVMBackendAllocWorkspace(); }"
    path = _archive(tmp_path / "x.tar", _object(text, tmp_path))
    with pytest.raises(EdgeTransactError, match=r"lib0\.o: a kernel allocates GPU memory"):
        check_temporaries(path)


def test_an_empty_archive_is_noticed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    with pytest.raises(EdgeTransactError, match="is empty"):
        check_library(tmp_path / "x.tar", get_target("android"), MODEL_LIB)


def test_a_target_nearly_right_is_suggested():
    with pytest.raises(UsageError) as caught:
        get_target("andriod")
    assert "Did you mean 'android'?" in caught.value.fix and all(name in caught.value.fix for name in TARGETS)


def test_an_archive_depends_on_its_objects_alone(tmp_path, monkeypatch):
    objects = [("lib0.o", b"code"), ("devc.o", b"data")]
    write_archive(tmp_path / "a.tar", objects)
    monkeypatch.setattr("time.time", lambda: 0.0)
    before = os.umask(0o77)
    write_archive(tmp_path / "b.tar", objects[::-1])
    os.umask(before)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert archived(tmp_path / "a.tar") == sorted(objects)
    listed = subprocess.run(["tar", "-tvf", tmp_path / "a.tar"], capture_output=True, text=True, check=True).stdout
    assert all(line.startswith("-rw-r--r-- 0/0 ") for line in listed.splitlines())
