"""A phone without a phone: real adb, real adbd, an arm64 userland under qemu, in its own network namespace."""
