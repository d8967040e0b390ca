"""``python -m benchmarks.evidence FILE.zip ...``: results in files of ``bench --evidence``, as rows of docs/phones.md.

Without a file, it reads those in ``results/phones/``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks import page
from edge_transact.benchmarking.analysis.results import make_results
from edge_transact.benchmarking.evidence import Evidence
from edge_transact.benchmarking.records.log import read_records
from edge_transact.benchmarking.records.plan import lengths_of

EVIDENCE = page.RESULTS / "phones"
HEADER = ("phone", "chip", "model", "library, runner", "tokens", "prefill/s", "decode/s", "of DRAM")


def rows(files: Iterable[Path]) -> list[tuple[str, ...]]:
    """A row under `HEADER` for each result in files of evidence."""
    found = []
    for path in files:
        socs = {device["name"]: device["soc"] for device in Evidence.read(path).devices.values()}
        for result in make_results(read_records(path)):
            decode, share = result["decode_tok_s"], result["bandwidth_share"]
            found.append(
                (
                    f"[{result['device']}](../benchmarks/results/phones/{path.name})",
                    socs.get(result["device"]) or "",
                    f"{result['model']}, {result['quantization']}",
                    ", ".join(filter(None, (result["target"], result["runner"]))),
                    str(lengths_of(result)),
                    f"{result['prefill_tok_s']:,.0f}",
                    f"{decode:,.1f}" if decode else "",
                    f"{share:.0%}" if share else "",
                )
            )
    return found


if __name__ == "__main__":
    print(page.table(HEADER, rows([Path(file) for file in sys.argv[1:]] or sorted(EVIDENCE.glob("*.zip")))))
