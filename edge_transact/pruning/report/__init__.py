"""What pruning did, as figures and a page."""
