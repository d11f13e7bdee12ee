"""The header ``WWW-Authenticate``: where to get a token, for what, and what was wrong.

Distribution's form of RFC 6750 (its ``docs/content/spec/auth/token.md``). Values are quoted strings
of RFC 9110; what does not fit into one is left out, and never put into a header as it came.
"""

import re

_QUOTABLE = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*")


def bearer_challenge(realm: str, *, service: str, scope: str = "", error: str | None = None) -> str:
    """Return the header's value.

    Args:
        realm: The URL of the token endpoint.
        service: Whom the token is for.
        scope: What it has to allow; empty for a login only.
        error: ``invalid_token`` or ``insufficient_scope``, when a token was shown.
    """
    values = {"realm": realm, "service": service, "scope": scope, "error": error or ""}
    parts = [
        f'{name}="{value}"'
        for name, value in values.items()
        if value and _QUOTABLE.fullmatch(value)
    ]
    return f"Bearer {','.join(parts)}"
