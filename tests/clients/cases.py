"""Runs the cases of one suite and reports each as a line of JSON. `sdk.mjs` does the same for itself."""

import json
import sys
import time
import traceback

CASES = []


def case(function):
    """Its name says what holds."""
    CASES.append(function)
    return function


def run_cases() -> None:
    """Those whose name contains the first argument."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for function in CASES:
        if wanted not in function.__name__:
            continue
        began = time.monotonic()
        why = None
        try:
            function()
        except Exception:
            why = traceback.format_exc(limit=-4)
        report(case=function.__name__, seconds=time.monotonic() - began, why=why)
    # Without this line the suite ended before its end.
    report(complete=True)


def report(**line) -> None:
    print(json.dumps(line), flush=True)


def equal(found, expected) -> None:
    assert found == expected, f"found {found!r}, expected {expected!r}"


def raises(kind, function):
    """What it raised, which must be exactly of this class: applications catch by it."""
    try:
        returned = function()
    except Exception as error:
        assert type(error) is kind, f"raised {type(error).__name__} and not {kind.__name__}: {error}"
        return error
    raise AssertionError(f"nothing was raised; it returned {str(returned)[:200]!r}")
