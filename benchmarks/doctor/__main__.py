"""Print what the doctor finds in each training: `python -m benchmarks.doctor`."""

from benchmarks.doctor import FAULTS, HEALTHY, examined, is_named


def main() -> int:
    """Returns the exit status."""
    for training, findings in examined((*FAULTS, *HEALTHY)):
        good = is_named(training, findings) if training.illness else not findings
        text = "; ".join(f"{finding.name} ({finding.evidence})" for finding in findings) or "nothing found"
        print(f"{'ok   ' if good else 'SHORT'} {training.name}: {text}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
