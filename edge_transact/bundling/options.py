"""Options of an Android project."""

from __future__ import annotations

from typing import Annotated

from edge_transact.options import Option, Options


class BundleOptions(Options):
    """The names of an app, and how its models get to phones."""

    application_id: Annotated[str, Option("Android's name of the app.", metavar="ID")] = "org.example.chat"
    app_name: Annotated[str, Option("The app's name on the phone.", metavar="NAME")] = "Edge Chat"
    weights: Annotated[
        str,
        Option(
            "How weights get to phones: in the app (assets), in an asset pack that Google Play installs with it (pack) "
            "or brings after it (fast-follow), over adb (install), or from the folder of a server (https://...), below "
            "which the app downloads ID/FILE. auto takes assets while there is room, then pack, then install.",
            metavar="auto|assets|pack|fast-follow|install|URL",
        ),
    ] = "auto"
