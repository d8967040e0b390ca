// Android 28 or newer: nothing of it is asked for by name.
