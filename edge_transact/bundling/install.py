"""Sends models' weights into an app's own files on a phone, over adb."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.dist_files import MANIFEST
from edge_transact.benchmarking.drivers.adb.app_folder import AppFolder
from edge_transact.benchmarking.drivers.adb.client import AndroidDevice
from edge_transact.benchmarking.drivers.adb.devices import describe, find_devices
from edge_transact.benchmarking.drivers.adb.push import changed_files
from edge_transact.benchmarking.drivers.base import DeviceInfo, DeviceLost, phone_lock
from edge_transact.bundling.escaping import check_application_id, model_ids
from edge_transact.bundling.models import AppModel
from edge_transact.bundling.project import Project
from edge_transact.bundling.sources import ABIS, describe_model
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.formatting import megabytes
from edge_transact.progress import bar

logger = logging.getLogger(__name__)

RETURN_S = 60


@dataclass(frozen=True)
class Installed:
    device: str
    application_id: str
    models: Sequence[str]
    files: Sequence[str]
    bytes: int

    def to_dict(self) -> dict[str, object]:
        return vars(self)


def install(source: Path, *, device: str | None = None, application_id: str | None = None) -> Installed:
    """Sends the weights that the app on a phone lacks, of a project's models or of a DIST.

    Files with the right sha256 aren't sent again, so an interrupted call continues. Until all files are right, the app
    says which isn't, and doesn't load the model.

    Raises:
        UsageError: There are several phones, or a DIST is given without an app.
        EdgeTransactError: The app isn't installed, or the phone lacks memory or storage, or went away.
    """
    models, application = _models(source, application_id)
    phone = find_phone(device)
    info = describe(phone)
    if phone.shell("pm", "path", application).code:
        raise EdgeTransactError(
            f"{info.name} has no app {application}", fix="Install its APK first, or name another --application-id."
        )
    for model, _ in models:
        _require(model, info)
    folder = AppFolder(phone, application)
    sent: list[tuple[str, int]] = []
    # Two calls at once would mix the files of two models of one name.
    with phone_lock(phone.serial, f"install on {info.name}"):
        for model, directory in models:
            names = _put(phone, folder, model, directory)
            sent += [(f"models/{model.id}/{file.path}", file.bytes) for file in model.files if file.path in names]
    return Installed(
        device=phone.serial,
        application_id=application,
        models=[model.id for model, _ in models],
        files=[path for path, _ in sent],
        bytes=sum(size for _, size in sent),
    )


def _models(source: Path, application_id: str | None) -> tuple[list[tuple[AppModel, Path]], str]:
    """The models to install, with the directories of their files, and the app."""
    if (source / MANIFEST).is_file():
        if application_id is None:
            raise UsageError(f"{source} is a DIST", fix="Name the app for it: --application-id org.example.chat")
        (identifier,) = model_ids([Path(os.path.abspath(source)).name])
        return [(describe_model(source, identifier).model, source)], check_application_id(application_id)
    project = Project.read(source)
    # An APK has no asset packs, which come from Google Play.
    ways = ("pack", "fast-follow", "install")
    models = [(model, source / model.directory) for model in project.models if model.weights in ways]
    return models, check_application_id(application_id or project.application_id)


def find_phone(serial: str | None) -> AndroidDevice:
    """The phone with this serial, or the only one; a `UsageError` if there are several. Raises as `find_devices`."""
    phones = find_devices(serial or "all")
    if len(phones) > 1:
        known = ", ".join(phone.serial for phone in phones)
        raise UsageError(f"there are {len(phones)} phones: {known}", fix=f"Name one: --device {phones[0].serial}")
    return phones[0]


def _require(model: AppModel, info: DeviceInfo) -> None:
    """Refuses a model that can't run on the phone, before anything is sent."""
    if not {*ABIS} & {*info.abis}:
        raise EdgeTransactError(
            f"{info.name} runs {', '.join(info.abis) or 'an unknown ABI'}, not {' or '.join(ABIS)}",
            fix="The libraries are built for 64-bit ARM and emulators: use another phone.",
        )
    needed = min(model.memory_bytes.values())
    if info.memory_mib is not None and needed > info.memory_mib * 2**20:
        raise EdgeTransactError(
            f"{model.id} needs {megabytes(needed)} of memory, and {info.name} has {megabytes(info.memory_mib * 2**20)}",
            fix="Build it with a smaller --context, or prune it more.",
        )


def _put(phone: AndroidDevice, folder: AppFolder, model: AppModel, directory: Path) -> set[str]:
    """Completes a model on the phone, and continues when a lost phone is back. Returns the names of the files sent."""
    local = {file.path: directory / file.path for file in model.files}
    digests = {file.path: file.sha256 for file in model.files}
    sent: set[str] = set()
    while True:
        try:
            target = folder.make(f"models/{model.id}")
            names = changed_files(phone, target, local, digests, copies=2)
            if not names and not sent:
                logger.info(f"{model.id} is there already")
            for name in names:
                if not local[name].is_file() or sha256(local[name]) != digests[name]:
                    raise EdgeTransactError(f"{local[name]} changed after the build", fix="Bundle or build it again.")
            total = sum(file.bytes for file in model.files if file.path in names)
            with bar(f"send {model.id}, {megabytes(total)}", total) as advance:
                for name in names:
                    folder.put(local[name], f"{target}/{name}", digests[name], on_bytes=advance)
                    sent.add(name)
            folder.keep_only(target, digests)
            return sent
        except DeviceLost:
            logger.warning(f"{phone.serial} went away: waiting {RETURN_S} s for it")
            if not phone.wait(RETURN_S, threading.Event()):
                raise


def install_app(project: Project, apk: Path, device: str | None) -> Installed:
    """Installs a project's APK on a phone, then the weights that aren't in it. Raises what `install` does."""
    phone = find_phone(device)
    logger.info(f"install {apk} on {phone.serial}")
    target = "/data/local/tmp/edge-transact.apk"
    with bar(f"send {apk.name}, {megabytes(apk.stat().st_size)}", apk.stat().st_size) as advance:
        phone.push(apk, target, on_bytes=advance)
    try:
        phone.checked("pm", "install", "-r", target, timeout_s=300)
    finally:
        phone.shell("rm", "-f", target)
    return install(project.directory, device=phone.serial)
