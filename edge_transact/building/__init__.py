"""The stage that makes a DIST, its manifest, and its check against torch."""
