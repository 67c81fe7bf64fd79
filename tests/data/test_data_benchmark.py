"""The benchmark's own check of bad input: it passes, and it can fail."""

from benchmarks.data import claims
from benchmarks.data.jpegs import encode_image


def test_every_kind_of_bad_input_is_handled() -> None:
    verdicts = claims.bad_inputs()
    assert len(verdicts) >= 14 and not {name: verdict for name, verdict in verdicts.items() if verdict}


def test_the_check_can_fail() -> None:
    good = encode_image(claims._noise(), "PNG")
    assert (
        claims._skips(good, "truncated") and claims._reads(good, (0, 0, 0)) and claims._refuses(lambda tree: None, "x")
    )
    assert claims._rebuilds(lambda path: None)
