"""Phones through adb: the client, what a phone reports about itself, file transfer, and the C++ runner."""
