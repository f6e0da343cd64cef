"""`stage_jobs.py`, and each rank says how many answers it drew in an iteration, and with how much processor time."""

import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


def main() -> None:
    import stage_jobs

    from preceptor.training import ppo, ranks

    own = ppo.generate

    def counted(model, prompts, *arguments, **options):
        began = time.process_time()
        answers = own(model, prompts, *arguments, **options)
        spent = time.process_time() - began
        text = f"rank {ranks.rank()} drew {len(answers)} from {options['first_number']} in {spent:.3f} s\n"
        os.write(sys.stdout.fileno(), text.encode())
        return answers

    ppo.generate = counted
    stage_jobs.main()


if __name__ == "__main__":
    main()
