"""``edge-transact.toml``: what `edge-transact build` does in a directory."""

from edge_transact.project.schema import BUDGET_KEYS, ENGINES, FILE, Project, json_schema, read_project

__all__ = ["BUDGET_KEYS", "ENGINES", "FILE", "Project", "json_schema", "read_project"]
