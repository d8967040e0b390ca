"""Outputs that are complete or absent, the cache, manifests, templates and report pages."""
