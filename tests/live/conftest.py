"""The engine of the page in a Node process, for the tests of this folder."""

from collections.abc import Iterator

import pytest

from pages.live.node import Engine, find_node, node_engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    if find_node() is None:
        pytest.skip("no Node on the path (Debian: apt install nodejs)")
    with node_engine() as opened:
        yield opened
