"""The command line, in this process."""

import json
from typing import Any

from typer.testing import CliRunner, Result

from edge_transact.cli import app


def run(*words: object, **options: Any) -> Result:
    """Runs ``edge-transact`` with these words; options are those of `CliRunner.invoke`."""
    return CliRunner().invoke(app, [str(word) for word in words], **options)


def said(*words: object) -> dict[str, Any]:
    """What a command prints as JSON at its end; it must end well."""
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def edge_transact(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = run(*words)
    return result.exit_code, result.stdout, result.stderr
