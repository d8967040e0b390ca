"""Options of an Android project."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edge_transact.options import Option, Options


class BundleOptions(Options):
    """The names and the version of an app, and how its models get to phones."""

    application_id: Annotated[str, Option("Android's name of the app.", metavar="ID")] = "org.example.chat"
    app_name: Annotated[str, Option("The app's name on the phone.", metavar="NAME")] = "Edge Chat"
    version_code: Annotated[
        int, Field(ge=1, le=2_100_000_000), Option("The app's version as Google Play counts it.")
    ] = 1
    version_name: Annotated[str, Option("The app's version as people see it.", metavar="NAME")] = "1.0"
    weights: Annotated[
        str,
        Option(
            "How weights get to phones: in the app (assets), in an asset pack that Google Play installs with it (pack) "
            "or brings after it (fast-follow), over adb (install), or from the folder of a server (https://...), below "
            "which the app downloads ID/FILE. auto takes assets while there is room, then pack, then install.",
            metavar="auto|assets|pack|fast-follow|install|URL",
        ),
    ] = "auto"
