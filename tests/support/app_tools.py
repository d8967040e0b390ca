"""Stand-ins for what makes an Android app: an MLC-LLM checkout, SDK and NDK, and programs that record their calls.

The checkout's ``mlc_llm package`` does what MLC-LLM 79d603f0 does after its checks: it links archives, and starts
``prepare_libs.py`` with a new interpreter, which calls rustup and CMake in ``build/`` and leaves the engine there.
"""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_transact.doctor import packages

FILES = {
    # TVM's Python tries to import torch, which takes seconds.
    "python/torch.py": "raise ImportError\n",
    "python/mlc_llm/__init__.py": "import tvm_ffi.registry\nassert tvm_ffi.registry._SKIP_UNKNOWN_OBJECTS\n",
    "python/mlc_llm/cli/__init__.py": "",
    "python/mlc_llm/cli/package.py": """\
        import argparse
        from pathlib import Path
        from mlc_llm.interface.package import package

        def main(argv):
            parser = argparse.ArgumentParser()
            for name in ("--package-config", "--mlc-llm-source-dir", "--output"):
                parser.add_argument(name, type=Path, required=True)
            parsed = parser.parse_args(argv)
            package(parsed.package_config, parsed.mlc_llm_source_dir, parsed.output)
        """,
    "python/mlc_llm/interface/__init__.py": "",
    "python/mlc_llm/interface/package.py": """\
        import json, os, shutil, subprocess, sys
        from pathlib import Path

        def package(config_path, source, output):
            config = json.loads(config_path.read_text())
            archives = list(config["model_lib_path_for_prepare_libs"].values())
            assert all(map(os.path.isfile, archives)), archives
            assert all(os.path.isfile(entry["model"] + "/tensor-cache.json") for entry in config["model_list"])
            assert os.environ["TVM_NDK_CC"].startswith(os.environ["ANDROID_NDK"])
            os.makedirs("build/lib", exist_ok=True)
            subprocess.run([sys.executable, source / "android/mlc4j/prepare_libs.py"], check=True, env=os.environ)
            shutil.copytree("build/output", output / "lib/mlc4j/output", dirs_exist_ok=True)
        """,
    "android/mlc4j/prepare_libs.py": """\
        import os, subprocess
        import mlc_llm

        if __name__ == "__main__":
            subprocess.run(["rustup", "target", "add", "aarch64-linux-android"], check=True, env=os.environ)
            os.makedirs("build/lib", exist_ok=True)
            os.chdir("build")
            assert os.path.isdir("lib")
            subprocess.run(
                ["cmake", os.environ["MLC_LLM_SOURCE_DIR"] + "/android/mlc4j", "-DANDROID_ABI=arm64-v8a"], check=True
            )
            subprocess.run(["cmake", "--build", ".", "--target", "tvm4j_runtime_packed"], check=True)
            subprocess.run(["cmake", "--build", ".", "--target", "install"], check=True)
        """,
    "3rdparty/tvm/include/tvm/x.h": "",
    "LICENSE": "Apache\n",
    "NOTICE": "MLC's\n",
    "3rdparty/tvm/NOTICE": "TVM's\n",
}

PROGRAMS = {
    "rustup": '[ "$1" = --version ] && echo rustup 1.28',
    "rustc": '[ "$1" != --version ] && echo ROOT/rust || echo rustc 1.90.0',
    "javac": "echo javac 17.0.2",
    "cmake": """\
        [ "$1" = --version ] && echo cmake version 3.31
        case "$2" in -DANDROID_ABI=*) echo "${2#*=}" > abi ;; esac
        if [ "$4" = install ]; then
            read -r abi < abi
            mkdir -p output/$abi
            echo engine $abi > output/$abi/libtvm4j_runtime_packed.so
            echo classes > output/tvm4j_core.jar
        fi
        """,
    "gradle": """\
        if [ "$1" = --version ]; then
            echo "Gradle 99.0"
        elif [ "$2" = :app:assembleDebug ]; then
            mkdir -p app/build/outputs/apk/debug
            cp ROOT/app.apk app/build/outputs/apk/debug/app-debug.apk
        elif [ "$2 $3" = ":app:assembleRelease :app:bundleRelease" ]; then
            mkdir -p app/build/outputs/apk/release
            cp ROOT/app.apk app/build/outputs/apk/release/app-release.apk
        elif [ "$2" = :edge:assembleRelease ]; then
            mkdir -p edge/build/outputs/aar
            cp ROOT/edge.aar edge/build/outputs/aar/edge-release.aar
        fi
        """,
}
"""What each program does after it has noted its call."""

QUESTIONS = ("--version", "-version", "--print")
"""First arguments with which programs are only asked about themselves."""


class AppTools:
    """A machine that can make an app, in `root`; the environment names it.

    Gradle makes what is there as ``app.apk`` and ``edge.aar``.
    """

    def __init__(self, root: Path, ndk: str = "28.2.13676358") -> None:
        self.root = root
        self._calls = root / "calls"
        for name, text in FILES.items():
            self._write(f"mlc/{name}", textwrap.dedent(text))
        self._write("sdk/platforms/android-36/android.jar", "")
        self._write("ndk/source.properties", f"Pkg.Revision = {ndk}\n")
        self._write("rust/lib/rustlib/aarch64-linux-android/lib/x", "")
        for name, script in PROGRAMS.items():
            self._program(name, script)
        places = {"ANDROID_HOME": "sdk", "ANDROID_NDK": "ndk", "MLC_LLM_SOURCE_DIR": "mlc"}
        self.environment = {name: str(root / place) for name, place in places.items()}

    def use(self, monkeypatch: pytest.MonkeyPatch) -> "AppTools":
        """Make this the machine that commands of a test see."""
        for name in ("ANDROID_SDK_ROOT", "ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "JAVA_HOME", "CCC_OVERRIDE_OPTIONS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PATH", self.path, prepend=os.pathsep)
        # Packages that MLC's Python imports, and that the stand-in doesn't.
        monkeypatch.setattr(packages.metadata, "version", lambda name: "1000" if name != "apache-tvm" else "0.26.0")
        return self

    @property
    def path(self) -> str:
        """The directory of the programs, for PATH."""
        return str(self.root / "bin")

    def breaks(self, name: str, words: str | None = "sorry") -> None:
        """Make a program fail with these words, but for its version; with None, it works again."""
        script = PROGRAMS[name]
        if words is not None:
            script = f'[ "$1" != --version ] && echo "{words}" >&2 && exit 3\n{textwrap.dedent(script)}'
        self._program(name, script)

    def calls(self) -> list[tuple[str, Sequence[str], str]]:
        """Name, arguments and clang's additional flags of each call since the last time, but for `QUESTIONS`."""
        text = self._calls.read_text() if self._calls.exists() else ""
        self._calls.unlink(missing_ok=True)
        calls = [record.split("\037")[:-1] for record in text.split("\036")[:-1]]
        return [(name, words, flags) for name, flags, *words in calls if not words or words[0] not in QUESTIONS]

    def _program(self, name: str, script: str) -> None:
        # Separators that no argument holds: a unit's after each word, a record's after each call. In one write, because
        # several programs are called at once.
        words = f'$(printf \'%s\\037\' {name} "$CCC_OVERRIDE_OPTIONS" "$@")'
        note = f"printf '%s\\036' \"{words}\" >> {self._calls}\n"
        text = textwrap.dedent(script).replace("ROOT", str(self.root))
        path = self._write(f"bin/{name}", f"#!/bin/sh\n{note}{text}\nexit 0\n")
        path.chmod(0o755)

    def _write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path
