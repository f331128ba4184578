"""Which of the stories with real peers are run in ``make test``.

With BIRD each is run over internal and external sessions. With FRR and GoBGP one kind is in ``make test``, external
and internal; the other is in ``make long``.
"""

from __future__ import annotations

import pytest

LONG = {"test_frr.py": "ibgp", "test_gobgp.py": "ebgp"}
"""Module -> the kind of session that is left to ``make long``."""
SAME_WITH_ALL = "test_shutdown_enable_reset"
"""With BIRD it is in ``make test``: what we do does not depend on who is there."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks them, before pytest selects by marks."""
    for item in items:
        kind = LONG.get(item.path.name)
        if kind is not None and (item.name.endswith(f"[{kind}]") or item.name == SAME_WITH_ALL):
            item.add_marker(pytest.mark.long)
