"""The phone's file system: Debian packages, unpacked once into a directory that every phone copies.

Its shell, its tools and adbd are this machine's own kind of binaries, and so run at full speed. Only the runner and the
models' libraries are emulated, and the phone has no library for arm64: the portable runner brings its own.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.phone.leftovers import BINFMT, BINFMT_RULE
from tests.support.phone.runner import CACHE, one_at_a_time

FILES = Path(__file__).parent / "files"
PACKAGES = ("adbd", "mksh", "toybox")
PROGRAMS = (
    "adb", "qemu-aarch64", "ip", "unshare", "nsenter", "apt-get", "cc", "aarch64-linux-gnu-g++", "cmake", "ninja"
)  # fmt: skip
SENSORS = {
    "sys/class/thermal/thermal_zone0/type": "cpu-0-0",
    "sys/class/thermal/thermal_zone0/temp": "31500",
    "sys/class/thermal/thermal_zone1/type": "gpuss-0",
    "sys/class/thermal/thermal_zone1/temp": "30200",
    "sys/class/thermal/thermal_zone2/type": "skin-therm",
    "sys/class/thermal/thermal_zone2/temp": "29000",
    "sys/class/thermal/thermal_zone3/type": "battery",
    "sys/class/thermal/thermal_zone3/temp": "28000",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1804800",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2265600",
    "sys/devices/system/cpu/cpu7/cpufreq/scaling_cur_freq": "3302400",
    "sys/devices/system/cpu/cpu7/cpufreq/cpuinfo_max_freq": "3302400",
    "sys/class/power_supply/battery/status": "Charging",
    "sys/class/power_supply/battery/capacity": "84",
    "sys/class/power_supply/battery/voltage_now": "4100000",
    "sys/class/power_supply/battery/current_now": "-850000",
    "sys/class/power_supply/battery/charge_counter": "4000000",
    "standin/thermal_status": "0",
    "standin/screen": "false",
    "standin/settings/system.screen_off_timeout": "60000",
}


def missing() -> list[str]:
    """What this machine lacks to run the phone; empty if it can."""
    lacks = [name for name in PROGRAMS if not shutil.which(name)]
    if not BINFMT_RULE.exists():
        lacks.append(str(BINFMT_RULE))
    if os.geteuid() != 0:
        lacks.append("root")
    elif not BINFMT.exists():
        lacks.append("binfmt_misc in the kernel")
    return lacks


@one_at_a_time
def phone_root() -> Path:
    """The unpacked file system. It is made on first use and cached under a hash of what goes into it."""
    key = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(FILES.iterdir()):
        key.update(path.name.encode() + path.read_bytes())
    root = CACHE / f"phone-{key.hexdigest()[:12]}"
    if not root.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as workspace:
            fresh = Path(workspace) / "root"
            _unpack(_download(Path(workspace)), fresh)
            _furnish(fresh)
            fresh.rename(root)
    return root


def _download(workspace: Path) -> list[Path]:
    """Download the packages and their dependencies with an apt configuration of its own."""
    print_architecture = ["dpkg", "--print-architecture"]
    native = subprocess.run(print_architecture, capture_output=True, text=True, check=True).stdout.strip()
    for name in ("lists/partial", "cache/archives/partial"):
        (workspace / name).mkdir(parents=True)
    (workspace / "status").touch()
    config = workspace / "apt.conf"
    config.write_text(
        f'APT::Architecture "{native}"; APT::Architectures {{ "{native}"; "arm64"; }};\n'
        'APT::Install-Recommends "false";\n'
        f'APT::Sandbox::User "root"; Dir::State "{workspace}"; Dir::State::lists "{workspace}/lists";\n'
        f'Dir::State::status "{workspace}/status"; Dir::Cache "{workspace}/cache"; Debug::NoLocking "true";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(config)}
    for arguments in (["update"], ["-y", "--download-only", "install", *PACKAGES]):
        subprocess.run(["apt-get", "-qq", *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    return sorted((workspace / "cache/archives").glob("*.deb"))


def _unpack(packages: list[Path], root: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    for path in [root / "usr/share", *root.glob("usr/lib/*/gconv")]:
        shutil.rmtree(path)


def _furnish(root: Path) -> None:
    for name in (
        "system/bin",
        "sdcard/Android/data",
        "data/local/tmp",
        "proc",
        "dev/pts",
        "tmp",
        "sys",
        "standin",
        "root",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "bin/sh").unlink(missing_ok=True)
    for shell in ("system/bin/sh", "bin/sh"):
        (root / shell).symlink_to("/usr/bin/mksh")
    shutil.copy(FILES / "build.prop", root / "build.prop")
    (root / "usr/bin/toybox").rename(root / "usr/bin/toybox.real")
    for options, built in ((("-shared", "-fPIC"), "lib/app_folders.so"), (("-DTOYBOX",), "bin/toybox")):
        source = str(FILES / "app_folders.c")
        subprocess.run(["cc", "-O1", *options, source, "-o", str(root / "usr" / built)], check=True)
    for command in FILES.iterdir():
        if not command.suffix:
            (root / "system/bin" / command.name).write_bytes(command.read_bytes())
            (root / "system/bin" / command.name).chmod(0o755)
    for name, value in SENSORS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(value + "\n")
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:/system/bin/sh\nshell:x:2000:2000::/:/system/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nshell:x:2000:\n")
    listing = subprocess.run(["chroot", str(root), "/usr/bin/toybox.real"], capture_output=True, text=True, check=True)
    for applet in set(listing.stdout.split()) - {"sh"}:
        target = root / "system/bin" / applet
        if not target.exists():
            target.symlink_to("/usr/bin/toybox")
