"""The app's own Java in a JVM: what it calls of Android and tvm4j are stand-ins in ``tests/bundling/fakes``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from edge_transact.benchmarking.records.lines import AppRequest
from tests.support.android_project import ROOT, Compiled, Done, java, javac
from tests.support.edge_app import entry
from tests.support.kotlin import compile_kotlin, kotlin
from tests.support.patience import HANG_S

FAKES = ROOT / "tests" / "bundling" / "fakes"
TVM_FFI = Path(sysconfig.get_path("purelib")) / "tvm_ffi"
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def compile_fakes(compiled: Compiled, directory: Path) -> list[Path]:
    """The class path with the app's classes, the stand-ins and the main classes that use them."""
    classpath = [compiled.classes, *compiled.classpath]
    done = javac(java(FAKES), classpath, directory)
    assert done.returncode == 0, done.stderr
    return [directory, *classpath, compile_kotlin(kotlin(FAKES), [directory, *classpath])]


def run_app(classpath: list[Path], directory: Path) -> dict[str, list[str]]:
    """Runs ``AppMain`` in three processes of a phone, whose OpenCL no engine can use.

    The app has the models ``good``, ``other``, ``broken`` and ``both``. The last alone has a library for GPUs. It and
    ``broken`` are modules', as is the library of ``good``.

    Returns:
        The words of each line by the first of them.
    """
    assets = directory / "assets" / "edge"
    models = []
    for name in ("good", "other", "broken", "both"):
        (assets / name).mkdir(parents=True)
        (assets / name / "params_shard_0.bin").write_bytes(name.encode() * 100)
        (assets / name / "mlc-chat-config.json").write_text('{"context_window_size": 256, "prefill_chunk_size": 64}')
        libraries = {"android-cpu": f"{name}_cpu"} | ({"android": "both_gpu"} if name == "both" else {})
        models.append(entry(assets / name, libraries, memory_bytes=dict.fromkeys(libraries, 2 << 30)))
    (assets / "models.json").write_text(json.dumps({"models": models[:2]}))
    for model in models[2:]:
        (assets / model["id"] / "models.json").write_text(json.dumps({"models": [model]}))
    (directory / "strings.json").write_text(json.dumps(_strings()))
    made = directory / "library.c"
    for name in ("good_cpu", "OpenCL"):
        mark = json.dumps(str(directory / f"{name} was loaded"))
        made.write_text(
            f"#include <fcntl.h>\n__attribute__((constructor)) void load(void) {{ creat({mark}, 0600); }}\n"
        )
        _run("gcc", "-shared", "-fPIC", str(made), "-o", str(directory / f"lib{name}.so"))
    request = AppRequest(
        run="run-1", model_lib="good_cpu", prompt=[1, 2], decode_tokens=9, repetitions=2, warmups=0, check=None,
        timeout_s=99.0,
    )  # fmt: skip
    told: dict[str, list[str]] = {}
    for part in (["first"], ["second"], ["bench", json.dumps(asdict(request))]):
        done = _start(classpath, directory, "edgetransact.app.AppMainKt", str(directory), *part)
        assert done.returncode == 0, done.stdout + done.stderr
        told |= {words[0]: words[1:] for words in (line.split(" | ") for line in done.stdout.splitlines())}
    return told


@dataclass(frozen=True)
class Programs:
    """The app's native library, built for this machine with TVM's own runtime, and a stand-in for a model's library."""

    library: Path
    fake: Path
    classpath: list[Path]

    @classmethod
    def build(cls, project: Path, classpath: list[Path], directory: Path) -> Programs:
        """Builds the library with its own CMake file, as Gradle does."""
        tvm = TVM_FFI / "lib" / "libtvm_ffi.so"
        (directory / "libtvm4j_runtime_packed.so").symlink_to(tvm)  # has all that of the engine's library is used
        library, fake = build_programs(project, directory, directory), directory / "libfake.so"
        link = [f"-I{TVM_FFI / 'include'}", str(tvm), f"-Wl,-rpath,{tvm.parent}"]
        _run("gcc", "-shared", "-fPIC", str(FAKES / "programs_library.c"), "-o", str(fake), *link)
        return cls(library, fake, classpath)

    def start(self, files: Path, installed: int = 0, **environment: str) -> Done:
        """Makes the stand-in's programs ready in a new process, as the start of an app with these files does.

        ``programs_library.c`` reads the environment, and `installed` is the time of the app's installation.
        """
        main = "edgetransact.edge.android.ProgramsMain"
        arguments = [str(self.fake), "fake-library", str(files), str(installed)]
        return _start(self.classpath, self.library.parent, main, *arguments, **environment)

    def without_memory(self, fails: str) -> Done:
        """Calls the library as a Java VM without memory does: ``characters`` or ``class`` fails first."""
        program = self.library.with_name("jni_without_memory")
        flags = [f"-I{path}" for path in jni_headers()]
        _run("gcc", *flags, str(FAKES / "jni_without_memory.c"), "-o", str(program))
        variables = {**os.environ, "LD_LIBRARY_PATH": str(TVM_FFI / "lib")}
        command = [program, self.library, fails]
        return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=HANG_S)

    def on_core(self, core: int) -> Done:
        """Has a thread of a new process use one core, as an engine's thread, with TVM's runtime."""
        main = "edgetransact.edge.android.CoresMain"
        runtime = [TVM_FFI / "lib" / "libtvm_ffi.so", TVM_FFI.parent / "tvm" / "lib" / "libtvm_runtime.so"]
        words = *map(str, runtime), str(core)
        return _start(self.classpath, self.library.parent, main, *words, TVM_BIND_THREADS="1")


def build_programs(project: Path, engine: Path, directory: Path, compiler: str = "g++") -> Path:
    """The app's native library, built with its own CMake file, as Gradle does; `engine` is where MLC's library is."""
    checkout = directory / "mlc" / "3rdparty" / "tvm" / "3rdparty" / "tvm-ffi"
    checkout.mkdir(parents=True)
    (checkout / "include").symlink_to(TVM_FFI / "include")
    flags = " ".join(f"-I{path}" for path in jni_headers())
    settings = [f"-DMLC_SOURCE={directory / 'mlc'}", f"-DMLC_ENGINE={engine}", f"-DCMAKE_CXX_FLAGS={flags}"]
    sources, build = project / "edge" / "src" / "main" / "cpp", directory / "build"
    settings.append(f"-DCMAKE_CXX_COMPILER={compiler}")
    _run("cmake", "-G", "Ninja", "-S", str(sources), "-B", str(build), *settings)
    _run("cmake", "--build", str(build))
    return build / "libedge_programs.so"


def _strings() -> dict[str, str]:
    """The app's texts by their names; of those with plurals, the one for most numbers."""
    resources = ElementTree.parse(ROOT / "templates/android/app/src/main/res/values/strings.xml.j2").getroot()
    named = {
        element.get("name", ""): element.findtext("item[@quantity='other']") or element.text for element in resources
    }
    return {name: (text or "").replace("\\'", "'") for name, text in named.items()}


def endings(classpath: list[Path], level: int, *processes: str) -> list[str]:
    """What Android's reasons, statuses and importances say of processes, and what it says of one that it forgot."""
    done = _start(classpath, Path("/nowhere"), "edgetransact.edge.android.PastProcessesMain", str(level), *processes)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def weights_of_pack(classpath: list[Path], directory: Path) -> list[str]:
    """What is said of a model in the asset pack ``model_good`` that Google Play brings to the app in a directory."""
    model = directory / "model" / "good"
    if not model.exists():
        model.mkdir(parents=True)
        (model / "params_shard_0.bin").write_bytes(b"good" * 100)
        (model / "mlc-chat-config.json").write_text('{"context_window_size": 256, "prefill_chunk_size": 64}')
    described = entry(model, {"android-cpu": "good_cpu"}, weights="fast-follow", pack="model_good")
    words = str(directory), json.dumps({"models": [described]})
    done = _start(classpath, Path("/nowhere"), "edgetransact.edge.android.PacksMain", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def jni_headers() -> list[Path]:
    """Directories of ``jni.h``."""
    include = Path(shutil.which("javac") or "").resolve().parents[1] / "include"
    return [include, include / "linux"]


def _start(classpath: list[Path], libraries: Path, main: str, *arguments: str, **environment: str) -> Done:
    command = ["java", *QUICK, f"-Djava.library.path={libraries}", "-cp", ":".join(map(str, classpath)), main]
    variables = {**os.environ, **environment}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=variables, timeout=HANG_S)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stdout + done.stderr
