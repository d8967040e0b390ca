"""``python -m edge_transact.mlc DEFINITION COMMAND ...``: runs an MLC-LLM command with our architecture registered.

A process of its own, because MLC and the adapters change TVM for the whole process.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from edge_transact.checkpoint.auto_classes import register
from edge_transact.mlc import adapters

_PACKAGE = "edge_transact_definition"


def main(definition: str, command: str, *arguments: str) -> None:
    register()  # transformers reads our configuration without running the checkpoint's code
    adapters.before_import()
    import mlc_llm  # noqa: F401

    adapters.after_import()
    directory = Path(definition)
    spec = importlib.util.spec_from_file_location(
        _PACKAGE, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[_PACKAGE] = package
    spec.loader.exec_module(package)
    importlib.import_module(f"{_PACKAGE}.edge_llama_register")
    importlib.import_module(f"mlc_llm.cli.{command}").main(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
