"""Keys and passwords: kept out of configs, of what is shown and stored, and of processes that need none.

>>> Credentials("sk-1234567890").hide("Incorrect API key provided: sk-1234567890.")
'Incorrect API key provided: [hidden].'
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

HIDDEN = "[hidden]"

SHORTEST = 8
"""Shorter ones are not looked for: a server of one's own may want ``EMPTY`` or ``none``, which are words as well."""


class Credentials:
    """Secrets that are not to be shown, and puts :data:`HIDDEN` in their places.

    Args:
        values: The secrets; each is found as it is, in base64 and quoted for an address.
    """

    def __init__(self, *values: str | None):
        forms = {form for value in values if value and len(value) >= SHORTEST for form in _forms(value)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._found = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def hide(self, text: str) -> str:
        """The text without them."""
        return text if self._found is None else self._found.sub(HIDDEN, text)

    def hide_in(self, value: Any) -> Any:
        """Plain JSON without them, in keys and in texts."""
        if self._found is None:
            return value
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, list):
            return [self.hide_in(entry) for entry in value]
        if isinstance(value, dict):
            return {self.hide_in(key): self.hide_in(entry) for key, entry in value.items()}
        return value


def credentials_in(url: str) -> list[str]:
    """What of an address may be secret: its user and password, and the values of its query."""
    before = url.partition("//")[2].rpartition("@")[0]  # also of a password with a slash, which no parser finds
    return [before, *before.partition(":"), *(value for _, value in parse_qsl(urlsplit(url).query))]


def check_address(url: str, key: str, variable: str = "key_variable") -> None:
    """Refuses an address that holds a secret, which would be stored with the config, without repeating it.

    Args:
        url: The address.
        key: What the config calls it.
        variable: What the config calls the name of the variable in which a secret belongs.

    Raises:
        ValueError: It holds a user, a password or a query.
    """
    if {*"@?#"} & {*url}:
        raise ValueError(
            f"{key} holds a user, a password or a query, and configs are stored as they are: put the key into the "
            f"environment variable that {variable} names, and leave it out of the address"
        )


def without_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables but for the keys of services, which are called ``…_API_KEY``."""
    return {name: value for name, value in environment.items() if not name.upper().endswith("_API_KEY")}


def _forms(value: str) -> set[str]:
    """How a secret may be written: in base64 its inner characters, as its neighbours change those at the ends."""
    forms = {value, quote(value, safe="")}
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + value.encode()).decode()
        whole = len(value.encode()) + before
        inner = encoded[(before * 8 + 5) // 6 : whole * 8 // 6]
        forms |= {inner, inner.translate(str.maketrans("+/", "-_"))}
    return forms
