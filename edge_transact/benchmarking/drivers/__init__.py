"""How a bench runs visits: on this host (`host`), on phones through adb (`adb`), or in a bundled app (`app`)."""
