"""Lines of histories and tasks that are refused, each with its reason."""

import json

from ingesting import HISTORY, TASK


def history(**changes: object) -> bytes:
    fields = {name: value for name, value in {**HISTORY, **changes}.items() if value is not ...}
    return json.dumps(fields).encode()


def task(**changes: object) -> bytes:
    return json.dumps({name: value for name, value in {**TASK, **changes}.items() if value is not ...}).encode()


MALFORMED_HISTORIES = [
    (b"{", "broken_json"),
    (b"not json", "broken_json"),
    (b'{"user_id": "u",}', "broken_json"),
    (b"{'user_id': 'u'}", "broken_json"),
    (history()[:-1], "broken_json"),
    (history() + b"}", "broken_json"),
    (history() + history(), "broken_json"),
    (b'{"user_id": NaN}', "broken_json"),
    (b'{"user_id": -Infinity}', "broken_json"),
    (b"[" * 100_000, "broken_json"),
    (b"9" * 5_000, "broken_json"),
    (b"[]", "not_an_object"),
    (b"[" + history() + b"]", "not_an_object"),
    (b"7", "not_an_object"),
    (b'"text"', "not_an_object"),
    (b"null", "not_an_object"),
    (b"true", "not_an_object"),
    (b'{"text": "\xff"}', "not_utf8"),
    ('{"text": "é"}'.encode("latin1"), "not_utf8"),
    (b'{"user_id": "a", "user_id": "b"}', "repeated_field"),
    (b"{}", "missing_user_id"),
    (history(user_id=...), "missing_user_id"),
    (history(user_id=None), "missing_user_id"),
    (history(user_id=["u"]), "wrong_type_user_id"),
    (history(user_id={"id": "u"}), "wrong_type_user_id"),
    (history(user_id=True), "wrong_type_user_id"),
    (history(user_id=""), "empty_user_id"),
    (history(user_id=" \n"), "empty_user_id"),
    (history(user_id="\ud800"), "not_utf8"),
    (history(item_id=""), "empty_item_id"),
    (history(kind=...), "missing_kind"),
    (history(kind="LaMP_99"), "unknown_kind"),
    (history(kind=4), "unknown_kind"),
    (history(kind=["LaMP_4"]), "wrong_type_kind"),
    (history(posted_at=...), "missing_posted_at"),
    (history(posted_at=True), "wrong_type_posted_at"),
    (history(posted_at=1.5), "bad_time"),
    (history(posted_at=["2026"]), "wrong_type_posted_at"),
    (history(posted_at="yesterday"), "bad_time"),
    (history(posted_at=""), "bad_time"),
    (history(posted_at="2026-13-01"), "bad_time"),
    (history(posted_at="2026-02-30T00:00:00Z"), "bad_time"),
    (history(posted_at="20/11/2026"), "bad_time"),
    (history(posted_at="0001-01-01T00:00:00+14:00"), "bad_time"),
    (history(posted_at=10**400), "bad_time"),
    (history(text=...), "missing_text"),
    (history(text=None), "missing_text"),
    (history(text=""), "empty_text"),
    (history(text=" \t\n\u00a0"), "empty_text"),
    (history(text=["t"]), "wrong_type_text"),
    (history(text="half \udc00"), "not_utf8"),
    (history(output=True), "wrong_type_output"),
    (history(output=["o"]), "wrong_type_output"),
    (history(output="\ud83d"), "not_utf8"),
    (history(deleted="yes"), "wrong_type_deleted"),
    (history(deleted=1), "wrong_type_deleted"),
    (history(deleted=True, user_id=...), "missing_user_id"),
    (history(deleted=True, item_id=[3]), "wrong_type_item_id"),
    (history(deleted=True, item_id=...), "missing_item_id"),
]

MALFORMED_TASKS = [
    (task(task_id=...), "missing_task_id"),
    (task(task_id=True), "wrong_type_task_id"),
    (task(task_id=""), "empty_task_id"),
    (task(user_id=...), "missing_user_id"),
    (task(kind="x"), "unknown_kind"),
    (task(queued_at="soon"), "bad_time"),
    (task(input=...), "missing_input"),
    (task(input="  "), "empty_input"),
    (task(input=["x"]), "wrong_type_input"),
    (task(choices="a, b"), "wrong_type_choices"),
    (task(choices=["a", True]), "wrong_type_choices"),
    (task(choices=["5", 5]), "repeated_choices"),
    (task(choices=["a", None]), "wrong_type_choices"),
    (task(choices=[]), "empty_choices"),
    (task(choices=["a", ""]), "empty_choice"),
    (task(choices=["a", "a"]), "repeated_choices"),
    (task(choices=["\ud800", "a"]), "not_utf8"),
    (task(reference=[5]), "wrong_type_reference"),
    (task(reference="\ud800"), "not_utf8"),
    (task(deleted=True, task_id=...), "missing_task_id"),
]
