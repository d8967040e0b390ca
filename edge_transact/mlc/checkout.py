"""Finds the user's MLC-LLM, and whether its Python sources were tested with the installed TVM."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from edge_transact.errors import EdgeTransactError

KNOWN_REVISION = "79d603f0"
"""The revision of mlc-ai/mlc-llm, of 2026-07-23, that `adapters` supports."""
KNOWN_TVM = "0.26.0"
KNOWN_DIGEST = "4cd75d693c4cf8d081ef3db606fc5f9795d501d5eed1b85c38d865d0634de201"
"""`Checkout.digest` of the known revision: matches a copy without git, but no clone with edits."""

CLONE = "git clone --recursive https://github.com/mlc-ai/mlc-llm"
GET = f"{CLONE}, git -C mlc-llm checkout {KNOWN_REVISION}, and export MLC_LLM_SOURCE_DIR=$PWD/mlc-llm"


@dataclass(frozen=True)
class Checkout:
    """An installation of MLC-LLM: the directory of its Python packages, and its place for messages."""

    python: Path
    where: Path

    @property
    def digest(self) -> str:
        """sha256 over the names and contents of the package's Python files."""
        digest = hashlib.sha256()
        for path in sorted((self.python / "mlc_llm").rglob("*.py")):
            digest.update(path.relative_to(self.python).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    @property
    def is_known(self) -> bool:
        """Whether this MLC and the installed TVM are the pair that the adapters support."""
        return self.digest == KNOWN_DIGEST and version("apache-tvm") == KNOWN_TVM

    @property
    def revision(self) -> str:
        """The known revision if the sources match it, otherwise git's answer."""
        if self.digest == KNOWN_DIGEST:
            return KNOWN_REVISION
        command = ["git", "-C", str(self.where), "rev-parse", "--short=8", "HEAD"]
        try:
            head = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return "an unknown revision"
        return f"{head}, changed" if head == KNOWN_REVISION else head

    @property
    def pair(self) -> str:
        return f"MLC-LLM {self.revision} with apache-tvm {version('apache-tvm')}"


KNOWN_PAIR = f"MLC-LLM {KNOWN_REVISION} with apache-tvm {KNOWN_TVM}"
CHECK_OUT_KNOWN = f"git -C $MLC_LLM_SOURCE_DIR checkout {KNOWN_REVISION}, or build with --engine tvm."


def find() -> Checkout:
    """The checkout that ``MLC_LLM_SOURCE_DIR`` names, or the installed ``mlc_llm``; or an `EdgeTransactError`."""
    if value := os.environ.get("MLC_LLM_SOURCE_DIR"):
        source = Path(value)
        if not (source / "python" / "mlc_llm" / "__init__.py").is_file():
            raise EdgeTransactError(f"MLC_LLM_SOURCE_DIR: {source} is not an MLC-LLM checkout", fix=f"{GET}.")
        return Checkout(source / "python", source)
    spec = importlib.util.find_spec("mlc_llm")
    if spec is None or spec.origin is None:
        raise EdgeTransactError(
            "no MLC-LLM found: MLC_LLM_SOURCE_DIR is not set, and mlc_llm is not installed",
            fix=f"{GET}. Or build with --engine tvm, which writes the same weights without it.",
        )
    package = Path(spec.origin).parent
    return Checkout(package.parent, package)
