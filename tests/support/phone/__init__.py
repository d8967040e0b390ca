"""A stand-in phone: real adb and adbd in a network namespace of its own, and arm64 binaries under qemu."""
