"""Where plans are scored: in processes of this machine, or through Ray on several machines, with the same results."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec

from edge_transact.errors import EdgeTransactError
from edge_transact.pruning.search.scoring import Scoring
from edge_transact.system.computation import compute_device
from edge_transact.system.cores import cores
from edge_transact.widths import WidthPlan

Jobs = Sequence[tuple[Sequence[WidthPlan], str]]
"""Plans to score together, and the name of the text."""

Scores = Callable[[Jobs], Iterator[list[float]]]
"""Gives the scores of each job, in their order."""

_scoring: Scoring | None = None


def workers() -> int:
    """Processes that score plans on this machine: one for each core, or one with a GPU."""
    return cores().threads if compute_device().type == "cpu" else 1


@contextmanager
def scoring_in(executor: str, scoring: Scoring) -> Iterator[Scores]:
    """Scores plans with an executor of `options.EXECUTORS`. With one worker, they are scored in this process."""
    if executor == "ray":
        if find_spec("ray") is None:
            raise EdgeTransactError("Ray is not installed", fix="pip install 'edge-transact[ray]'")
        from ray.util.multiprocessing import Pool

        # All machines see the checkpoint and the cache under the same paths; RAY_ADDRESS names the cluster.
        with Pool(initializer=_begin, initargs=(scoring,)) as pool:
            yield lambda jobs: pool.imap(_score, jobs, chunksize=1)
    elif workers() == 1:
        yield lambda jobs: (scoring.divergences(*job) for job in jobs)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers(), context, _begin, (scoring,)) as processes:
            try:
                yield lambda jobs: processes.map(_score, jobs)
            except BaseException:
                processes.shutdown(wait=False, cancel_futures=True)
                raise


def _begin(scoring: Scoring) -> None:
    global _scoring
    _scoring = scoring


def _score(job: tuple[Sequence[WidthPlan], str]) -> list[float]:
    assert _scoring is not None
    return _scoring.divergences(*job)
