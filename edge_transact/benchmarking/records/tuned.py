"""``tuning.json`` in a DIST: what it runs on best, by the phone's chip, as ``bench --tune`` measured it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_transact.artifacts.digests import SEAL, UNSEALED, is_sealed, seal
from edge_transact.artifacts.dist_files import TUNING
from edge_transact.artifacts.outputs import new_file
from edge_transact.errors import EdgeTransactError
from edge_transact.options import MOST_CPUS
from edge_transact.reading import read_model

AGAIN = "Remove it, and run `bench --tune` again."


class Setting(BaseModel):
    """A library's target and the CPU cores to run it on; without cores, the runtime chooses them."""

    model_config = ConfigDict(extra="forbid")

    target: Literal["android", "android-cpu"]
    cores: Sequence[Annotated[int, Field(ge=0, lt=MOST_CPUS)]]


class Best(Setting):
    """The best setting for a phase. `clear` unless another one's speed can't be told from its own."""

    tok_s: float
    clear: bool


class Tuned(BaseModel):
    model_config = ConfigDict(extra="forbid")

    device: str
    decode: Best
    prefill: Best


class _File(BaseModel):
    socs: Mapping[str, Tuned]


def read_tuning(dist: Path) -> dict[str, Tuned]:
    """What a DIST runs on best, by ``ro.soc.model``; an `EdgeTransactError` if the file was changed."""
    path = dist / TUNING
    if not path.exists():
        return {}
    if not is_sealed(path):
        raise EdgeTransactError(f"{path} was changed", fix=AGAIN)
    return dict(read_model(_File, path, AGAIN).socs)


def write_tuning(dist: Path, soc: str, tuned: Tuned) -> Path:
    """Adds what a chip runs a DIST on best, in place of what was known of that chip."""
    socs = {name: each.model_dump() for name, each in {**read_tuning(dist), soc: tuned}.items()}
    with new_file(dist / TUNING, b"{", own=True) as fresh:
        fresh.write_text(json.dumps({"socs": socs, SEAL: UNSEALED}, indent=2) + "\n")
        seal(fresh)
    return dist / TUNING
