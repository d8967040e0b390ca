"""What is written and kept: outputs that are complete or absent, the cache, manifests, templates, report pages."""
