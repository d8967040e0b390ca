"""The table of hostile input: what is damaged, how, the command, and the sentence expected.

``python -m tests.support.hostile.table BASE [WORD ...] [/N]`` runs the cases whose description has all words, or every
Nth of them, and prints those that go wrong. BASE is what `make_base` made.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.support.bench_logs import bench_of, write_log
from tests.support.hostile.case import Case
from tests.support.hostile.worker import Outcome
from tests.support.tokenizers import give_bytes

AT_ONCE = 500
"""Cases of a worker."""


def make_base(path: Path, model: Path, dist: Path) -> Path:
    """What cases damage: a model with its DIST, and small files of every other kind made from them."""
    import zipfile

    from edge_transact.bundling.project import bundle
    from edge_transact.checkpoint import Checkpoint
    from edge_transact.pruning.options import PruneOptions
    from edge_transact.pruning.run import prune
    from tests.support.gguf_files import write_gguf

    path.mkdir(parents=True)
    shutil.copytree(model, path / "model")
    shutil.copytree(dist, path / "dist")
    give_bytes(path / "model")
    give_bytes(path / "dist")
    checkpoint = Checkpoint.open(path / "model")
    write_gguf(path / "model.gguf", checkpoint, "F32")
    prune(str(model), path / "pruned", PruneOptions(ratio=0.3, method="magnitude", compensate=False))
    (path / "text.txt").write_text("The people of the United States are many, and so are their words. " * 400)
    (path / "widths.json").write_text(json.dumps(checkpoint.plan.to_list()))
    for name in ("log", "other"):
        write_log(path / f"{name}.jsonl", bench_of({"dense": (2.0, 2.1, 2.2), "pruned": (1.0, 1.1, 1.2)}))
    project = bundle([path / "dist"], path / "app").directory
    assets = project / "app/src/main"
    with zipfile.ZipFile(path / "app.apk", "w") as apk:
        # A host's library has what is looked at first: the head of an ELF file.
        library = next((path / "dist/lib").glob("*-host.so")).read_bytes()
        apk.writestr("lib/arm64-v8a/libtvm4j_runtime_packed.so", library[:18] + b"\xb7\0" + library[20:])
        for file in sorted(assets.rglob("assets/**/*")):
            if file.is_file():
                apk.write(file, str(file.relative_to(assets)))
    return path


def make_table(base: Path) -> Sequence[Case]:
    """All cases, always in the same order."""
    from tests.support.hostile import of_calls, of_dists, of_models

    return [
        *of_models.of_models(base),
        *of_models.of_gguf(base),
        *of_dists.of_dists(base),
        *of_dists.of_benches(base),
        *of_dists.of_apps(base),
        *of_dists.of_phones(),
        *of_calls.of_options(),
        *of_calls.of_outputs(),
        *of_calls.of_projects(),
        *of_calls.of_widths(),
        *of_calls.of_texts(),
        *of_calls.of_caches(),
    ]


def sample(table: Sequence[Case], size: int) -> list[int]:
    """Numbers of cases that end soon, as many of each kind as of any other where there are enough; always the same."""
    dice = random.Random(0)
    by_kind: dict[str, list[int]] = {}
    for number, case in enumerate(table):
        is_plan = "--dry-run" in case.command
        works_long = case.may_work and case.command[0] in ("prune", "eval", "heal", "bench") and not is_plan
        if size < len(table) and (works_long or re.search("loop|MB|silence|without end|bomb|sparse|5 GB", case.damage)):
            continue
        by_kind.setdefault(case.kind, []).append(number)
    for numbers in by_kind.values():
        dice.shuffle(numbers)
    taken: list[int] = []
    while len(taken) < size:
        taken += [numbers.pop() for numbers in by_kind.values() if numbers]
    return sorted(taken[:size])


def run_cases(base: Path, numbers: Sequence[int]) -> Iterator[Outcome]:
    """The outcomes of cases, each in a fork of a worker."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TVM_NUM_THREADS": "1", "TVM_BIND_THREADS": "0"}
    for first in range(0, len(numbers), AT_ONCE):
        some = list(map(str, numbers[first : first + AT_ONCE]))
        command = [sys.executable, "-m", "tests.support.hostile.worker", str(base), *some]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
            assert worker.stdout
            for line in worker.stdout:
                yield Outcome(**json.loads(line))
        assert worker.returncode == 0


def figures(table: Sequence[Case], outcomes: Sequence[Outcome]) -> str:
    """How many cases of each kind there were, and how they ended, as rows of Markdown."""
    rows: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        ended = "wrong" if outcome.wrong else "worked" if outcome.code == 0 else "refused"
        rows.setdefault(table[outcome.number].kind, Counter())[ended] += 1
    rows["all"] = sum(rows.values(), Counter())
    lines = ["| damaged | cases | refused | worked | wrong |", "|---|---|---|---|---|"]
    for kind, counts in rows.items():
        ends = " | ".join(f"{counts[end]:,}" for end in ("refused", "worked", "wrong"))
        lines.append(f"| {kind} | {counts.total():,} | {ends} |")
    seconds = sum(outcome.seconds for outcome in outcomes)
    most = max(outcome.mib for outcome in outcomes)
    return "\n".join([*lines, f"\n{seconds:,.0f} s; the most memory was {most * 1.048576:,.0f} MB\n"])


def main() -> None:
    """Runs cases and prints what goes wrong."""
    base, words = Path(sys.argv[1]), sys.argv[2:]
    step = int(words.pop()[1:]) if words and words[-1].startswith("/") else 1
    table = make_table(base)
    chosen = [number for number, case in enumerate(table) if all(word in str(case) for word in words)][::step]
    outcomes = []
    for outcome in run_cases(base, chosen):
        outcomes.append(outcome)
        if outcome.wrong:
            print(outcome.number, outcome.wrong, "|", table[outcome.number])
            ended = f"{outcome.code}, {outcome.seconds} s, {outcome.mib} MiB"
            print(f"    {ended}:", outcome.stderr.strip()[-600:].replace("\n", "\n    "), flush=True)
        if log := os.environ.get("EDGE_HOSTILE_LOG"):
            with open(log, "a") as file:
                file.write(json.dumps(asdict(outcome) | {"case": str(table[outcome.number])}) + "\n")
    print(figures(table, outcomes))


if __name__ == "__main__":
    main()
