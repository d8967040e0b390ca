"""Where a bench runs: this host, phones over adb, an app."""
