"""``edge-transact.toml``: what `edge-transact build` does in a directory."""

from edge_transact.project.schema import FILE, Project, given_in, json_schema, read_project

__all__ = ["FILE", "Project", "given_in", "json_schema", "read_project"]
