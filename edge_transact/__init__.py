"""edge-transact: a LLaMA checkpoint to a phone in one command.

``import edge_transact as et`` offers what `docs/api.md` explains, such as ``et.prune("demo:smollm2", "small",
ratio=0.3)``, and lets transformers' Auto classes load the checkpoints that `edge-transact prune` writes.

A name of the API is imported when it is used (PEP 562): torch and TVM load when a function needs them.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_transact.version import __version__ as __version__

if TYPE_CHECKING:
    from edge_transact.api import bench as bench
    from edge_transact.api import build as build
    from edge_transact.api import bundle as bundle
    from edge_transact.api import evaluate as evaluate
    from edge_transact.api import export as export
    from edge_transact.api import heal as heal
    from edge_transact.api import inspect as inspect
    from edge_transact.api import load as load
    from edge_transact.api import plan as plan
    from edge_transact.api import profile as profile
    from edge_transact.api import prune as prune
    from edge_transact.benchmarking.options import BenchOptions as BenchOptions
    from edge_transact.benchmarking.session import BenchOutcome as BenchOutcome
    from edge_transact.building.dist import Build as Build
    from edge_transact.building.options import BuildOptions as BuildOptions
    from edge_transact.bundling.project import Project as Project
    from edge_transact.checkpoint import Checkpoint as Checkpoint
    from edge_transact.errors import EdgeTransactError as EdgeTransactError
    from edge_transact.errors import UsageError as UsageError
    from edge_transact.evaluation.report import Evaluations as Evaluations
    from edge_transact.exporting.gguf import Export as Export
    from edge_transact.healing.run import HealResult as HealResult
    from edge_transact.inspection import Inspection as Inspection
    from edge_transact.planning.options import PlanOptions as PlanOptions
    from edge_transact.planning.run import Planned as Planned
    from edge_transact.profiling.options import ProfileOptions as ProfileOptions
    from edge_transact.profiling.run import Profiled as Profiled
    from edge_transact.pruning.options import Budget as Budget
    from edge_transact.pruning.options import PruneOptions as PruneOptions
    from edge_transact.pruning.run import PruneResult as PruneResult
    from edge_transact.runtime.session import Session as Session
    from edge_transact.verification import verify as verify
    from edge_transact.widths import LayerWidths as LayerWidths
    from edge_transact.widths import WidthPlan as WidthPlan

_MODULES = {
    "api": ("bench", "build", "bundle", "evaluate", "export", "heal", "inspect", "load", "plan", "profile", "prune"),
    "benchmarking.options": ("BenchOptions",),
    "benchmarking.session": ("BenchOutcome",),
    "building.dist": ("Build",),
    "building.options": ("BuildOptions",),
    "bundling.project": ("Project",),
    "checkpoint": ("Checkpoint",),
    "errors": ("EdgeTransactError", "UsageError"),
    "evaluation.report": ("Evaluations",),
    "exporting.gguf": ("Export",),
    "healing.run": ("HealResult",),
    "inspection": ("Inspection",),
    "planning.options": ("PlanOptions",),
    "planning.run": ("Planned",),
    "profiling.options": ("ProfileOptions",),
    "profiling.run": ("Profiled",),
    "pruning.options": ("Budget", "PruneOptions"),
    "pruning.run": ("PruneResult",),
    "runtime.session": ("Session",),
    "verification": ("verify",),
    "widths": ("LayerWidths", "WidthPlan"),
}
_API = {name: module for module, names in _MODULES.items() for name in names}

# A program that sets up no logging hears nothing, warnings included.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def _is_command() -> bool:
    """Whether this process runs ``edge-transact`` or ``python -m edge_transact...``."""
    if sys.argv[0] == "-m":  # Python is looking for the module
        return any(word.partition(".")[0] == __name__ for word in sys.orig_argv)
    return Path(sys.argv[0]).stem == "edge-transact"


# A command registers when it loads a model, and doesn't wait for transformers before.
if not _is_command():
    from edge_transact.checkpoint.auto_classes import register

    register()


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_API[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
