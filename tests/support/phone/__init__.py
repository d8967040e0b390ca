"""A stand-in phone: real adb and adbd, and an arm64 userland under qemu, in a network namespace of its own."""
