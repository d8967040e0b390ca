"""Measurements of this project for its documentation, which take too long for tests.

Run one with ``python -m benchmarks.NAME``. Raw rows and listings are in ``results/``; pages in ``docs/`` show the
tables made from them. To measure your own models, use ``edge-transact bench``
(`edge_transact.benchmarking`). On phones it uses the C++ runner in ``android_bench/``.
"""
