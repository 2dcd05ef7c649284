"""Fuzz a server for some minutes.

python -m tests.fuzz MINUTES
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.fuzz.attack import Attack
from tests.load.level import level
from tests.support import serving

# More memory at the end than after the first round, when all has been seen once, as a share.
MEMORY_BOUND = 0.1
_QUIET_S = 6  # an idle connection is closed after five


def _round(attack: Attack, number: int) -> None:
    print(f"seed {number}", flush=True)
    attack.hostile()
    attack.mutants(1000, number)
    attack.contract(20, number)
    attack.large()


def main() -> None:
    """Send rounds, their seeds printed so that one can be sent again; fail where an answer or the process is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="of the first round")
    chosen = parser.parse_args()
    end = time.monotonic() + chosen.minutes * 60
    with serving(PELLUCID_LOG_LEVEL="warning", PELLUCID_THREADS="0") as server, Attack(server) as attack:
        _round(attack, chosen.seed)
        before = level(server)
        number = chosen.seed
        while time.monotonic() < end:
            number += 1
            _round(attack, number)
        time.sleep(_QUIET_S)
        after = level(server)
        alive = server.process.poll() is None
    print(f"answers: {dict(sorted(attack.answers.items()))}")
    print(f"before: {before}\nafter:  {after}")
    wrong = [] if alive else ["the process has ended"]
    if after.memory_mib > before.memory_mib * (1 + MEMORY_BOUND):
        wrong.append(f"memory grew by {after.memory_mib - before.memory_mib:.0f} MiB")
    print("\n".join(wrong) or "nothing broke")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
