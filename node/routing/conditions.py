"""Whether a series header meets a condition, and the words for why not.

Values of a header are texts as the Standard writes them (numbers as decimal strings, several
values as a list). Texts are compared without case and without surrounding blanks, because the
same protocol is spelt differently on every console. An absent attribute meets only `not`,
`lacks` and `present = false`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from node.settings import Condition

Header = Mapping[str, str | Sequence[str]]


def unmet(condition: Condition, header: Header) -> str | None:
    """Return None if the header meets the condition, else why it does not.

    Args:
        condition: From a route or a card.
        header: DICOM keyword -> value or values.
    """
    values = _values(header.get(condition.keyword))
    if _met(condition, values):
        return None
    found = " and ".join(f"'{value}'" for value in values) if values else "absent"
    return f"{condition.keyword} is {found}, wanted {_wanted(condition)}"


def all_unmet(conditions: Sequence[Condition], header: Header) -> tuple[str, ...]:
    """Return why each unmet condition is not met; empty if all are met."""
    said = (unmet(condition, header) for condition in conditions)
    return tuple(text for text in said if text is not None)


def _values(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    values = (value,) if isinstance(value, str) else tuple(value)
    return tuple(text for each in values if (text := str(each).strip()))


def _met(condition: Condition, values: tuple[str, ...]) -> bool:
    operator, wanted = condition.operator, condition.value
    if operator == "present":
        return bool(values) is wanted
    if operator in ("at_least", "at_most"):
        return _within(operator, float(str(wanted)), values)
    low = tuple(value.casefold() for value in values)
    if isinstance(wanted, tuple):
        return any(each.strip().casefold() in low for each in wanted)
    text = str(wanted).strip().casefold()
    if operator == "equals":
        return text in low or text == "\\".join(low)
    if operator == "not":
        return text not in low
    if operator == "contains":
        return any(text in value for value in low)
    if operator == "lacks":
        return all(text not in value for value in low)
    return any(fnmatchcase(value, text) for value in low)


def _within(operator: str, wanted: float, values: tuple[str, ...]) -> bool:
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return False
    if operator == "at_least":
        return bool(numbers) and min(numbers) >= wanted
    return bool(numbers) and max(numbers) <= wanted


def _wanted(condition: Condition) -> str:
    operator, value = condition.operator, condition.value
    if operator == "present":
        return "present" if value else "absent"
    if isinstance(value, tuple):
        return "one of " + ", ".join(f"'{each}'" for each in value)
    words = {
        "equals": "",
        "not": "anything but ",
        "contains": "something that contains ",
        "lacks": "something without ",
        "like": "something like ",
        "at_least": "at least ",
        "at_most": "at most ",
    }
    shown = f"{value:g}" if isinstance(value, float) else f"'{value}'"
    return f"{words[operator]}{shown}"
