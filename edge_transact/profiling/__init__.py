"""Profiles of devices: a model's kernels timed over widths and contexts, with the runner of `bench`."""
