"""Latency, memory, temperature and energy of built models, on phones over adb and on this host.

A plan (`plan`) is a list of visits: one model at one pair of lengths, for a few repetitions. A bench executes visits
on one device: the C++ runner on a phone (`android`), a bundled app (`app`), or the host library (`host`). All speak the
same JSON lines (`lines`), which become records in a log (`records`), and results (`results`) for tables, comparisons
and reports.
"""
