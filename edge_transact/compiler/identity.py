"""What a profile's times depend on besides the model: the code that makes libraries, and this machine's CPU."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from edge_transact.cache.keys import code_of
from edge_transact.costs.profile import MEASURE_AGAIN, Profile
from edge_transact.errors import UsageError
from edge_transact.system.cores import cores
from edge_transact.system.cpu import cpu_name, present


def library_identity() -> dict[str, str]:
    from edge_transact.compiler.library import build_library

    return {"apache-tvm": version("apache-tvm"), "code": code_of(build_library)}


def host_identity() -> dict[str, Any]:
    """This machine's CPU, as far as kernels depend on it."""
    return {"cpu": cpu_name(), "features": present(), "cores": str(cores())}


def require_current(profile: Profile) -> None:
    """A `UsageError` for a profile of libraries that this version doesn't make, or of a host other than this."""
    if not profile.is_measured:
        return
    here = host_identity() if profile.target == "host" else {}
    known = {**profile.library, **{name: profile.device.get(name) for name in here}}
    for name, value in {**library_identity(), **here}.items():
        if known.get(name) != value:
            what = "another version of edge-transact or TVM" if name in profile.library else "another machine"
            raise UsageError(
                f"the profile is of {what}: its {name} is {known.get(name)}, here it is {value}", fix=MEASURE_AGAIN
            )
