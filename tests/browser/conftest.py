"""The browser of this folder's tests."""

from collections.abc import Iterator
from typing import Any

import pytest

from pages.browser import chromium, find_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if find_chromium() is None:
        pytest.skip("no Chromium on the path (CHROMIUM names one)")
    with chromium() as opened:
        yield opened
