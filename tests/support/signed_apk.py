"""A signed APK of a project, made by what Debian, npm and PyPI have of Android's tools.

ProGuard stands for R8: it shrinks by the project's rules, gives short names, and makes classes of lambdas, which dx
knows nothing of. The engine and tvm4j are MLC's as a package of npm has them, built for phones. No NDK is there, so
the app's native library is linked with glibc: its machine and its symbols are right.
"""

import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from tests.support.android_app import build_programs
from tests.support.android_project import JSON, RULES, Compiled, run_tool
from tests.support.kotlin import runtime
from tests.support.npm import npm_packages

NATIVESCRIPT = "@nativescript/android"
MLC = "@react-native-ai/mlc"
PACKAGES = (f"{NATIVESCRIPT}@9.1.1", f"{MLC}@0.12.0")
TOOLS = ("proguard", "apksigner", "dexdump", "zipalign", "keytool", "zip")
ABI = "lib/arm64-v8a"
ENGINE = "libtvm4j_runtime_packed.so"

NEWEST_CLASS_FILE = 55
"""Of Java 11; ProGuard 6.2.2 reads none of Java 17, for which tvm4j was compiled."""

# R8 knows enums by itself, and how classes reach what is private in their inner ones: Gradle's own rules, too, let
# ProGuard make that public. The rules of a library are in its jar, in one of these folders.
KEEP = """
-target 1.7
-allowaccessmodification
-keepattributes *Annotation*,Signature,InnerClasses,EnclosingMethod
-keepclassmembers enum * { public static **[] values(); public static ** valueOf(java.lang.String); }
-dontwarn java.lang.invoke.StringConcatFactory
-dontwarn org.jetbrains.annotations.*,android.annotation.SuppressLint
"""
LIBRARIES_RULES = re.compile(r"META-INF/(proguard|com\.android\.tools/proguard)/.*\.pro")


@dataclass(frozen=True)
class Member:
    """A method or a field in a DEX file; `owner` and `type` as there, without ``L`` and ``;`` around the owner."""

    owner: str
    name: str
    type: str
    native: bool


def packages() -> Path:
    """Where npm's packages are."""
    return npm_packages("apk-tools", *PACKAGES) / "node_modules"


def mlc() -> Path:
    """MLC's engine for phones, and ``tvm4j_core.jar``."""
    return packages() / MLC / "prebuilt" / "android" / "lib" / "mlc4j" / "output"


def shrink(project: Path, compiled: Compiled, others: Sequence[Path], output: Path, *rules: str) -> Path:
    """What R8 would keep of the project's classes, of others and of Kotlin's, with its names, for dx.

    Args:
        others: Further classes that the app is built with, tvm4j's among them.
        rules: What is to be kept besides.
    """
    output.mkdir()
    android, *_ = compiled.classpath
    given = [
        compiled.classes,
        *(_for_proguard(path, output) if path.is_file() else path for path in others),
        *runtime(),
    ]
    files = [project / "edge" / "consumer-rules.pro", *(project / "app").glob("*.pro"), compiled.resources / RULES]
    lines = [KEEP, *rules, *(f"-include {path}" for path in [*files, *_rules_of(given, output)])]
    lines += [f"-injars {path}(!META-INF/**,!android/**)" for path in given]
    platform = [f"{_java8(output)}", f"{android}(!org/apache/tvm/**,!com/google/**)", f"{JSON}(org/json/**)"]
    lines += [f"-libraryjars {path}" for path in platform]
    lines.append(f"-outjars {output / 'shrunk.jar'}")
    (output / "all.pro").write_text("\n".join(lines))
    _do("proguard", f"@{output / 'all.pro'}")
    return output / "shrunk.jar"


def dex(jar: Path) -> Path:
    """The DEX file of Java 7's classes."""
    output = jar.with_name("classes.dex")
    tools = packages() / NATIVESCRIPT / "framework" / "build-tools" / "android-metadata-generator.jar"
    _do("java", "-cp", str(tools), "com.android.dx.command.Main", "--dex", f"--output={output}", str(jar))
    return output


def read_dex(path: Path) -> set[Member]:
    """All members that are declared in a DEX file whose checksum is right."""
    assert "Checksum verified" in _do("dexdump", "-c", str(path))
    pattern = r"\(in L([^;]+);\)\n +name +: '(.*)'\n +type +: '(.*)'\n +access +: 0x\w+ \((.*)\)"
    found = re.findall(pattern, _do("dexdump", str(path)))
    return {Member(owner, name, kind, "NATIVE" in access.split()) for owner, name, kind, access in found}


def libraries(project: Path, directory: Path) -> dict[str, Path]:
    """The engine, stripped as Gradle does it, and the app's own library, by their names in an APK."""
    directory.mkdir()
    engine = directory / ENGINE
    _do("llvm-strip-19", "--strip-unneeded", "-o", str(engine), str(mlc() / "arm64-v8a" / ENGINE))
    programs = build_programs(project, directory, directory, "aarch64-linux-gnu-g++")
    return {f"{ABI}/{path.name}": path for path in (engine, programs)}


def symbols(library: Path) -> set[str]:
    """What a library exports."""
    with library.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        return {symbol.name for symbol in table.iter_symbols() if symbol["st_shndx"] != "SHN_UNDEF"}


def sign(linked: Path, files: Mapping[str, Path], path: Path) -> Path:
    """The APK at `path`: what aapt2 linked and `files` by their names in it, with a key made for it alone."""
    unsigned = path.with_suffix(".unsigned")
    shutil.copy(linked, unsigned)
    with zipfile.ZipFile(unsigned, "a") as archive:
        for name, file in sorted(files.items()):
            kept = name.endswith((".so", ".bin"))  # as jniLibs and noCompress say in Gradle's files
            archive.write(file, name, zipfile.ZIP_STORED if kept else zipfile.ZIP_DEFLATED)
    keys, password = path.with_suffix(".p12"), "throw-away"
    who = ["-alias", "key", "-dname", "CN=Test", "-validity", "1", "-keyalg", "EC"]
    _do("keytool", "-genkeypair", "-keystore", str(keys), "-storepass", password, *who)
    # It aligns libraries to 16 KB and other stored files to 4 bytes.
    secret = ["--ks", str(keys), "--ks-pass", f"pass:{password}", "--v4-signing-enabled", "false"]
    _do("apksigner", "sign", *secret, "--out", str(path), str(unsigned))
    return path


def _java8(output: Path) -> Path:
    """Java 8's classes without code, which Android 8.0 has, from what javac has for ``--release``."""
    home = Path(shutil.which("javac") or "").resolve().parents[1]
    with zipfile.ZipFile(home / "lib" / "ct.sym") as symbols, zipfile.ZipFile(output / "java8.jar", "w") as jar:
        for name in symbols.namelist():
            if found := re.fullmatch(r"\w*8\w*/java\.base/(.+)\.sig", name):
                jar.writestr(f"{found[1]}.class", _lowered(symbols.read(name)))
    return output / "java8.jar"


def _for_proguard(jar: Path, output: Path) -> Path:
    """A jar whose classes say that they are old enough for ProGuard, which fails at what it doesn't know in them."""
    lowered = output / jar.name
    with zipfile.ZipFile(jar) as given, zipfile.ZipFile(lowered, "w") as made:
        for name in given.namelist():
            if name.endswith(".class"):
                made.writestr(name, _lowered(given.read(name)))
    return lowered


def _lowered(content: bytes) -> bytes:
    version = min(int.from_bytes(content[6:8]), NEWEST_CLASS_FILE)
    return content[:4] + version.to_bytes(4) + content[8:]


def _rules_of(given: Sequence[Path], output: Path) -> list[Path]:
    rules = []
    for jar in (path for path in given if path.is_file()):
        with zipfile.ZipFile(jar) as archive:
            for name in filter(LIBRARIES_RULES.fullmatch, archive.namelist()):
                rules.append(output / f"{jar.stem}-{len(rules)}.pro")
                rules[-1].write_bytes(archive.read(name))
    return rules


def _do(*command: str) -> str:
    done = run_tool(command)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout
