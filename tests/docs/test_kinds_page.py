"""docs/kinds.md says what the kinds are today."""

from kinds_page import PAGE, page


def test_the_page_is_what_the_kinds_say() -> None:
    assert PAGE.read_text(encoding="utf8") == page(), "python tests/kinds_page.py writes it anew"
