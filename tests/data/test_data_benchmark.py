"""The benchmark's own check of bad input: it passes, and it can fail."""

from benchmarks import data


def test_every_kind_of_bad_input_is_handled() -> None:
    verdicts = data.bad_inputs()
    assert len(verdicts) >= 14 and not {kind: verdict for kind, verdict in verdicts.items() if verdict}


def test_the_check_can_fail() -> None:
    good = data._encoded(data._noise(), "PNG")
    assert data._skips(good, "truncated") and data._reads(good, (0, 0, 0)) and data._refuses(lambda tree: None, "x")
    assert data._rebuilds(lambda path: None)
