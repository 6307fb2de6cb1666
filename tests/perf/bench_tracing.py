# SPDX-License-Identifier: Apache-2.0
"""What tracing costs a change that nobody sampled: `PYTHONPATH=tests python tests/perf/bench_tracing.py`.

Microseconds, best of many rounds, by service, and their sum for a change of one node. No figure is asserted: machines
differ. What does not differ, the number of calls, is (`test_unsampled_change_cost.py`).
"""

import sys
import time

from support.unsampled_change import steps

ROUNDS, TIMES = 50, 1_000


def main() -> None:
    """Measure and print."""
    total = 0.0
    for name, work in steps().items():
        best = float("inf")
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for _ in range(TIMES):
                work()
            best = min(best, (time.perf_counter() - started) / TIMES)
        total += best
        sys.stdout.write(f"{name:24} {best * 1e6:6.2f} us\n")
    sys.stdout.write(f"{'sum':24} {total * 1e6:6.2f} us (budget: 10)\n")


if __name__ == "__main__":
    main()
