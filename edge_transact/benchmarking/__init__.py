"""Measures built models on phones over adb, and on this host: latency, memory, temperature and energy."""
