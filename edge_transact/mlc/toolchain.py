"""Runs MLC-LLM's ``gen_config``, ``convert_weight`` and ``compile`` on our checkpoints."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_transact.artifacts.dist_files import CHAT_CONFIG
from edge_transact.artifacts.outputs import scratch_directory
from edge_transact.compiler.archive import archived, check_library, write_archive
from edge_transact.compiler.targets import BuildTarget, system_lib_prefix
from edge_transact.definition import MODEL_TYPE, Definition
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.mlc.checkout import CHECK_OUT_KNOWN, KNOWN_PAIR, find
from edge_transact.quantization import Quantization
from edge_transact.reading import read_object

logger = logging.getLogger(__name__)

DEVICES = {"android": "android", "iphone": "iphone", "host": "cpu"}
"""Targets that MLC's ``compile`` supports, with its ``--device`` for each."""

SHOWN_LINES = 3
"""How many of the last lines of a failed command's output the error shows."""


class MLC:
    """The user's MLC-LLM, whose commands run in processes with the emitted definition.

    A `UsageError` for a target that MLC doesn't support, an `EdgeTransactError` if a program that it needs is missing.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        for target in targets:
            if target not in DEVICES:
                raise UsageError(
                    f"--engine mlc has no target {target!r}",
                    fix=f"There are: {', '.join(DEVICES)}. Or use --engine tvm.",
                )
        if "iphone" in targets and shutil.which("xcrun") is None:
            raise EdgeTransactError(
                "MLC-LLM compiles Metal with Xcode's xcrun, which isn't installed here",
                fix="Build iphone with --engine tvm, or on a Mac with Xcode.",
            )
        self.checkout = find()
        self._known = self.checkout.is_known
        if not self._known:
            logger.warning(f"trying {self.checkout.pair}, which was not tested; {KNOWN_PAIR} is known to work")

    def write_model(
        self,
        emitted: Path,
        checkpoint: Path,
        definition: Definition,
        quantization: Quantization,
        sizes: Mapping[str, int],
        directory: Path,
    ) -> None:
        """Makes an MLC model directory without libraries, with MLC's ``gen_config`` and ``convert_weight``.

        `directory` has our ``mlc-chat-config.json``, and gets MLC's, the tokenizer's files and the parameter shards.
        Ours fills in values that MLC's lacks, and the conversation template. The definition is in `emitted`.
        """
        path = directory / CHAT_CONFIG
        ours = read_object(path)
        with scratch_directory() as scratch:
            source = _as_defined(checkpoint, definition, scratch)
            common = (str(source), f"--quantization={quantization.name}", f"--output={directory}")
            options = [f"--{name.replace('_', '-')}={size}" for name, size in sizes.items()]
            self._run(emitted, "gen_config", *common, f"--conv-template={ours['conv_template']['name']}", *options)
            self._run(emitted, "convert_weight", *common, "--device=cpu")
        theirs = read_object(path)
        kept = {"model_lib": ours["model_lib"], "conv_template": ours["conv_template"]}
        kept["model_config"] = {**ours["model_config"], **theirs["model_config"]}
        filled = {key: value for key, value in ours.items() if theirs.get(key) is None}
        path.write_text(json.dumps({**theirs, **filled, **kept}, indent=2) + "\n")
        # A second index of the same shards, for browsers.
        (directory / "tensor-cache-b16.json").unlink(missing_ok=True)

    def build_library(self, emitted: Path, directory: Path, target: BuildTarget, model_lib: str, path: Path) -> None:
        """Runs MLC's ``compile`` on `write_model`'s directory; the library has to pass `archive.check_library`."""
        prefix = system_lib_prefix(model_lib) if target.is_system_lib else ""
        options = (f"--device={DEVICES[target.name]}", f"--system-lib-prefix={prefix}", f"--output={path}")
        self._run(emitted, "compile", str(directory), *options)
        if target.is_system_lib:
            write_archive(path, archived(path))
        check_library(path, target, model_lib)

    def _run(self, emitted: Path, command: str, *arguments: str) -> None:
        logger.info(f"mlc_llm {command} ({self.checkout.where})")
        path = [str(self.checkout.python), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "SKIP_LOADING_MLCLLM_SO": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *path])),
        }
        words = [sys.executable, "-m", "edge_transact.mlc", str(emitted), command, *arguments]
        logger.debug("$ %s", shlex.join(map(str, words)))
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        output = done.stdout.decode(errors="replace")
        logger.debug(output)
        if done.returncode:
            raise self._failure(command, output)

    def _failure(self, command: str, output: str) -> EdgeTransactError:
        last = [line for line in output.splitlines() if line.strip()][-SHOWN_LINES:]
        while last[1:] and last[0].startswith(" "):
            del last[0]  # of a traceback, show the exception alone
        said = " / ".join(line.strip() for line in last) or "it printed nothing"
        missing = re.search(r"No module named '(\w+)", said)
        if missing and missing[1] not in ("tvm", "mlc_llm"):
            return EdgeTransactError(
                f"mlc_llm {command} needs {missing[1]}", fix="python -m pip install 'edge-transact[mlc-build]'"
            )
        if self._known:
            fix = "Run again with --verbose to see its output, or build with --engine tvm."
            return EdgeTransactError(f"mlc_llm {command} failed: {said}", fix=fix)
        return EdgeTransactError(
            f"mlc_llm {command} failed: {said}. {self.checkout.pair} is not known to work",
            fix=f"{KNOWN_PAIR} is: {CHECK_OUT_KNOWN}",
        )


def _as_defined(checkpoint: Path, definition: Definition, scratch: Path) -> Path:
    """Links the checkpoint into `scratch`, with our architecture and the definition's values in config.json.

    The original may have a stock LLaMA's model_type, which is MLC's own, RoPE where MLC doesn't look (transformers 5),
    and more layers than the definition.
    """
    for path in checkpoint.iterdir():
        if path.name != "config.json":
            (scratch / path.name).symlink_to(path.resolve())
    config = read_object(checkpoint / "config.json")
    config |= definition.config.asdict() | {"model_type": MODEL_TYPE}
    (scratch / "config.json").write_text(json.dumps(config))
    return scratch
