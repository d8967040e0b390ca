"""Measures built models on phones over adb, and on this host: latency, memory, temperature and energy.

Data flows through four rooms, each of which imports only those before it:

- `records`: what is planned (`plan`, `conditions`), what a run says (`lines`), what is kept (`log`), and what a table
  shows (`results`).
- `drivers`: how a visit runs on this host (`host`), on a phone through adb (`adb.runner`), or in a bundled app (`app`).
- `run`: executes a plan on all devices. `profile` times the functions of a host library instead.
- `analysis`: results from records, comparisons, tables, figures and the report.

`session` is one call of the command, and `options` has its options. `model` says what a bench needs to know about a
DIST, and `link` makes a shared library of an archive.

The directory `android_bench/` holds the C++ program that the adb driver runs on a phone. The directory `benchmarks/` is
something else: measurements of this project, for its documentation.
"""
