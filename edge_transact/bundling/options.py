"""Options of an Android project."""

from __future__ import annotations

from typing import Annotated

from edge_transact.options import Option, Options


class BundleOptions(Options):
    """The names of an app."""

    application_id: Annotated[str, Option("Android's name of the app.", metavar="ID")] = "org.example.chat"
    app_name: Annotated[str, Option("The app's name on the phone.", metavar="NAME")] = "Edge Chat"
