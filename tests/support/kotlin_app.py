"""The sample app's Kotlin that knows nothing of Android, compiled and run on this machine."""

from tests.support.android_project import JSON, ROOT
from tests.support.edge_app import build_edge
from tests.support.kotlin import compile_kotlin, kotlin, runtime

APP = ROOT / "templates" / "android" / "app" / "src" / "main" / "kotlin" / "edgetransact" / "app"
TESTS = ROOT / "tests" / "bundling" / "kotlin"


def app_command(main: str, *arguments: str) -> list[str]:
    """The command that runs a main class of the tests' Kotlin."""
    core = build_edge()
    plain = [APP / f"{name}.kt" for name in ("Chats", "Markdown", "Settings")]
    classes = compile_kotlin([*plain, *kotlin(TESTS)], [core, JSON])
    path = ":".join(map(str, [classes, core, JSON, *runtime()]))
    java = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m", "-cp", path]
    return [*java, f"edgetransact.app.{main}", *arguments]
