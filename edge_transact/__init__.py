"""edge-transact: a LLaMA checkpoint to a phone in one command.

``import edge_transact as et`` offers what `docs/api.md` explains, such as ``et.prune("demo:smollm2", "small",
ratio=0.3)``. It imports nothing heavy: a name loads when it is used. It also lets transformers' Auto classes load the
checkpoints that `edge-transact prune` writes.
"""

import logging
import sys
from typing import TYPE_CHECKING

from edge_transact.lazy import Package
from edge_transact.registration import register_auto_classes
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
    from edge_transact.api import prune as prune
    from edge_transact.bench.options import BenchOptions as BenchOptions
    from edge_transact.bench.session import BenchOutcome as BenchOutcome
    from edge_transact.build.dist import Build as Build
    from edge_transact.build.options import BuildOptions as BuildOptions
    from edge_transact.checkpoint import Checkpoint as Checkpoint
    from edge_transact.errors import EdgeTransactError as EdgeTransactError
    from edge_transact.errors import UsageError as UsageError
    from edge_transact.evaluate.evaluations import Evaluations as Evaluations
    from edge_transact.heal.options import HealOptions as HealOptions
    from edge_transact.heal.run import HealResult as HealResult
    from edge_transact.inspection import Inspection as Inspection
    from edge_transact.prune.options import Budget as Budget
    from edge_transact.prune.options import PruneOptions as PruneOptions
    from edge_transact.prune.run import PruneResult as PruneResult
    from edge_transact.runtime.session import Session as Session
    from edge_transact.widths import LayerWidths as LayerWidths
    from edge_transact.widths import WidthPlan as WidthPlan

# A program that sets up no logging hears nothing, warnings included.
logging.getLogger(__name__).addHandler(logging.NullHandler())
register_auto_classes()
sys.modules[__name__].__class__ = Package
