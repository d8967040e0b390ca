"""A DIST in the cache, of a MODEL that is given where a DIST is wanted."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from edge_transact.building.options import BuildOptions
from edge_transact.cache import Recipe, made
from edge_transact.cache.keys import code_of


def is_model(name: str) -> bool:
    """Whether a MODEL or DIST is a MODEL: of the demos, a GGUF file, a checkpoint directory, or of the hub."""
    path = Path(name)
    if name.startswith("demo:") or path.suffix == ".gguf" or (path / "config.json").is_file():
        return True
    return name.count("/") == 1 and not path.parent.exists()


def kept_dist(model: str, target: str) -> Path:
    """The DIST of a MODEL for one target with a build's defaults, from the cache or made now. Raises as `build` does.

    It has a library for this host, too: what that answers is the record with which a phone's tokens are compared.
    """
    from edge_transact.building.dist import build
    from edge_transact.checkpoint import Checkpoint
    from edge_transact.checkpoint.writer import COPIED_FILES
    from edge_transact.inputs.models import resolve_model

    options = BuildOptions(target=list(dict.fromkeys([target, "host"])))
    recipe = Recipe(
        kind="dists",
        what=f"build {model} for {target}",
        ingredients={
            "model": model,
            "source": Checkpoint.open(resolve_model(model)).digest(*COPIED_FILES),
            "target": target,
            "code": code_of(build),
            **{package: version(package) for package in ("apache-tvm", "torch", "transformers")},
        },
        make=lambda directory: build(model, directory, options, force=True),
        name=re.split("[:/]", model.rstrip("/"))[-1],
    )
    return made(recipe)
