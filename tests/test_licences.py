"""The page of licences names every package that the wheel installs."""

from tools.licences import PAGE, page


def packages(text: str) -> list[str]:
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert all(len(row[1]) > 3 and "none named" not in row[1] for row in rows)
    return [name for name, _ in rows]


def test_the_page_has_todays_dependencies():
    """What a newer release says of its licence may be worded otherwise, so names alone are compared."""
    assert packages(PAGE.read_text()) == packages(page()), "python -m tools.licences writes it anew"
