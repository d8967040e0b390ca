"""A running stand-in phone, and the adb server that talks to it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.support.phone.leftovers import free_link
from tests.support.phone.root import phone_root

ADBD_PORT = 5555
BOOT = """
set -e
root=$1
mount -t proc proc "$root/proc"
mount -t tmpfs -o size=$2 tmpfs "$root/data/local/tmp"
chmod 777 "$root/data/local/tmp"
mount -t tmpfs tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/urandom" c 1 9
ip link set lo up
if [ -n "$3" ]; then
    mkdir -p "$root/host"
    mount --rbind / "$root/host"
    mount -o remount,bind,ro "$root/host"
    mount --bind "$root" "$root/host/mnt"
fi
read -r ready
exec env -i PATH=/system/bin:/usr/bin ADBD_PORT=5555 HOME=/ TMPDIR=/data/local/tmp \\
    /usr/sbin/chroot "$root" /system/bin/env LD_PRELOAD=/usr/lib/app_folders.so /usr/sbin/adbd
"""


class Phone:
    """One phone: a copy of the file system, with adbd in mount, pid and network namespaces of its own.

    The kernel must run aarch64 binaries; see `tests.support.phone.leftovers.binfmt`.

    `root` is its file system, as this machine sees it; sensor files can be written while it runs. ``/data/local/tmp``
    has `storage_mib`. With `host`, this machine's file system is at ``/host``, read-only, for apps that need its JVM;
    inside it, the phone's is at ``/mnt``, where it can be written. Folders of apps are closed to adb as on phones
    (``files/app_folders.c``).
    """

    def __init__(self, storage_mib: int = 256, host: bool = False) -> None:
        self.storage_mib, self._host = storage_mib, host
        self._directory = Path(tempfile.mkdtemp(prefix="phone-"))
        self.root = self._directory / "root"
        shutil.copytree(phone_root(), self.root, symlinks=True)
        number, self._lock = free_link()
        self._link, self._network = f"phone{number}", f"10.215.{number}"
        self.serial = f"{self._network}.2:{ADBD_PORT}"
        with (self.root / "build.prop").open("a") as properties:
            properties.write(f"ro.serialno=PAPER{number}\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Boot. ``/data/local/tmp`` is empty, because it lives in memory."""
        command = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private"]
        self._process = subprocess.Popen(
            [*command, "sh", "-c", BOOT, "sh", str(self.root), f"{self.storage_mib}m", "host" if self._host else ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=(self._directory / "log").open("ab"),
        )
        inside = self._inside()
        for command in (
            f"ip link add {self._link} type veth peer name eth0 netns {inside}",
            f"ip address add {self._network}.1/30 dev {self._link}",
            f"ip link set {self._link} up",
            f"nsenter --net -t {inside} ip address add {self._network}.2/30 dev eth0",
            f"nsenter --net -t {inside} ip link set eth0 up",
        ):
            subprocess.run(command.split(), check=True)
        assert self._process.stdin is not None
        self._process.stdin.write(b"ready\n")
        self._process.stdin.flush()
        _until(self._listening, "adbd to listen", self._log)

    def stop(self) -> None:
        """Pull the plug: every process of the phone dies at once."""
        if self._process is None:
            return
        # The first process inside is killed, so that unshare, outside, can still wait for it.
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(self._inside(), signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        subprocess.run(["ip", "link", "delete", self._link], check=False, stderr=subprocess.DEVNULL)

    def reboot(self) -> None:
        """Die, and come back a moment later, with an empty ``/data/local/tmp`` and in no special mode."""
        self.stop()
        self.write("/standin/fixed_performance", "booted")
        time.sleep(0.5)
        self.start()

    @contextlib.contextmanager
    def filled_up(self, leave: int) -> Iterator[None]:
        """Fill ``/data/local/tmp`` up to the last `leave` bytes meanwhile."""
        ballast, free = self.tmp / "ballast", os.statvfs(self.tmp)
        try:
            with ballast.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, file.tell() + free.f_bavail * free.f_frsize - leave)
            yield
        finally:
            ballast.unlink(missing_ok=True)

    def damage_weights(self) -> None:
        """Write noise into the first shard of each model."""
        for path in (self.tmp / "edge-transact/models").glob("*/params_shard_0.bin"):
            with path.open("r+b") as shard:
                shard.seek(2000)
                shard.write(os.urandom(198_000))

    def remove(self) -> None:
        """Stop, and remove the file system."""
        self.stop()
        self._lock.release()
        shutil.rmtree(self._directory, ignore_errors=True)

    def write(self, name: str, value: object) -> None:
        """Write one of the phone's files, such as a sensor's."""
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def read(self, name: str) -> str:
        """Read one of the phone's files."""
        return (self.root / name.lstrip("/")).read_text().strip()

    def set_temperature(self, celsius: float) -> None:
        """Set all thermal zones at once."""
        for zone in range(4):
            self.write(f"/sys/class/thermal/thermal_zone{zone}/temp", int(celsius * 1000))

    @property
    def tmp(self) -> Path:
        """``/data/local/tmp`` of the running phone, as this machine sees it."""
        return Path(f"/proc/{self._inside()}/root/data/local/tmp")

    def processes(self) -> dict[int, str]:
        """Command lines of the phone's processes except adbd, by their pids on this machine."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                # psutil doesn't tell a process's root.
                if os.readlink(f"/proc/{process.pid}/root") == str(self.root):
                    line = " ".join(process.cmdline())
                    if "/usr/sbin/adbd" not in line:
                        found[process.pid] = line
        return found

    def kill(self, words: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to processes whose command line holds `words`; returns their number."""
        victims = [pid for pid, line in self.processes().items() if words in line]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(victims)

    def cut_network(self, seconds: float) -> None:
        """Make the phone unreachable for a while. Its processes go on."""
        subprocess.run(["ip", "link", "set", self._link, "down"], check=True)
        time.sleep(seconds)
        subprocess.run(["ip", "link", "set", self._link, "up"], check=True)

    def _inside(self) -> int:
        """Pid, on this machine, of the first process in the phone's namespaces."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        _until(lambda: bool(children.read_text().split()), "the phone to boot", self._log)
        return int(children.read_text().split()[0])

    def _listening(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the phone died: {self._log()}")
        return _accepts(f"{self._network}.2", ADBD_PORT)

    def _log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")[-2000:]


@contextlib.contextmanager
def adb_server_beside(phone: Phone) -> Iterator[tuple[str, str]]:
    """An adb server on another machine, which `phone` is plugged into: its address, and the phone's serial there."""
    address = phone.serial.partition(":")[0]
    with tempfile.TemporaryDirectory(prefix="adb-") as home:
        command = ["nsenter", "--net", "-t", str(phone._inside()), "adb", "-a", "-P", "5037", "server", "nodaemon"]
        # Don't search for emulators on local ports: the server would find the phone's, under another name.
        environment = {**os.environ, "HOME": home, "ADB_LOCAL_TRANSPORT_MAX_PORT": "5000"}
        server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        serial = f"127.0.0.1:{ADBD_PORT}"
        try:
            _until(lambda: _accepts(address, 5037), "adb's server")
            yield f"{address}:5037", serial
        finally:
            server.kill()
            server.wait()


class AdbServer:
    """A private adb server, with its own port and home, so that it neither sees nor disturbs other phones."""

    def __init__(self) -> None:
        self._home = tempfile.mkdtemp(prefix="adb-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {"ANDROID_ADB_SERVER_PORT": str(self.port), "HOME": self._home, "ADB_MDNS_AUTO_CONNECT": "0"}

    def adb(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run adb with this server."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(["adb", *arguments], env=environment, capture_output=True, text=True, timeout=seconds)

    def connect(self, phone: Phone) -> None:
        """Make the phone known to the server."""
        _until(lambda: "connected to" in self.adb("connect", phone.serial).stdout, "adb to connect")
        _until(lambda: self.adb("-s", phone.serial, "get-state").stdout.strip() == "device", "the device state")

    def kill(self) -> None:
        """End the server. The next request of a client starts it again."""
        # adb waits for as long as its server takes, and one that is losing a phone may not answer at all.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.adb("kill-server", seconds=5)
            return
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name() == "adb" and f"tcp:{self.port}" in process.cmdline():
                    process.kill()

    def remove(self) -> None:
        """End the server for good."""
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)


def _accepts(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
        return True
    return False


def _until(condition: Callable[[], bool], what: str, log: Callable[[], str] = str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}: {log()}")
        time.sleep(0.05)
