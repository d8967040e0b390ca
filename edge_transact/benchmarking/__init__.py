"""Measures built models on phones over adb, and on this host: latency, memory, temperature and energy.

`session` is one call of the command. `run` executes its plan through `drivers` and keeps `records` in a log, of which
`analysis` makes results, comparisons and reports. ``android_bench/`` holds the program that runs on a phone.
"""
