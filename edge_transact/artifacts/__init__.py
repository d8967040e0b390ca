"""Outputs that are complete or absent, digests, manifests, templates and report pages."""
