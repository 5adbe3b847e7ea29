"""Write docs/kinds.md, as `python tests/kinds_page.py`."""

from pathlib import Path

from llm_jobs.kinds import SPOKEN, field_meanings, load_kinds
from pipelines.starting.kinds_shown import kind_rows, sample_rows

PAGE = Path(__file__).parent.parent / "docs" / "kinds.md"

HEAD = """\
# Kinds of tasks

A kind says how texts of a task are worded, answered and measured. `pplug kinds` lists the kinds there are, those of
your `pplug.toml` too; `pplug kinds headline` shows one field by field. Both names work; tables hold the left one.

    pplug kinds
    pplug kinds headline
    pplug kinds LaMP_4 --json

"""

FIELDS = """
## Fields

A kind of your own is a table `[kinds.NAME]` of `pplug.toml`; only `metric` must be there. Under the name of a built-in
kind, fields that are left out stay as they are.

```toml
[kinds.subject_line]
metric = "rouge"
prompt = "Write a subject line for this mail: {text}"
query_marker = "mail:"
max_new_tokens = 24
```

"""

FOOT = "\nWritten by `python tests/kinds_page.py` from `llm_jobs/kinds.py` and `llm_jobs/kinds/`; a test compares.\n"


def page() -> str:
    """The text of the page."""
    kinds = load_kinds()
    lines = [HEAD, "| kind | also called | answers | metric | learns from |\n|---|---|---|---|---|\n"]
    for row in kind_rows(kinds, {}):
        lines.append(f"| {row['kind']} | `{row['also']}` | {row['answers']} | {row['metric']} | {row['trains_on']} |\n")
    lines += [FIELDS, "| field | unless given | meaning |\n|---|---|---|\n"]
    defaults = load_kinds({"own": {"metric": "rouge"}})["own"]
    for name, meaning in field_meanings().items():
        value = "" if name in ("name", "metric") else _code(getattr(defaults, name))
        lines.append(f"| `{name}` | {value} | {meaning} |\n")
    lines.append("\n## What they look like\n")
    for spoken, name in SPOKEN.items():
        lines.append(f"\n### {spoken} ({name})\n\n")
        for row in sample_rows(kinds[name]):
            lines.append(f"- {row['sample']}: {_code(row['text'])}\n")
    return "".join([*lines, FOOT])


def _code(value: object) -> str:
    """A value as code in a line of Markdown."""
    return "none" if value in (None, "", ()) else f"`{value}`".replace("\n", "\\n").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf8")
