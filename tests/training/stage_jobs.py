"""Run stages one after another in this process, as torchrun starts it: ROOT and a JSON list of [stage, changes]."""

import json
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


def main() -> None:
    import torch
    import torch.distributed as dist
    from small_stages import STAGES

    from preceptor.errors import UserError
    from preceptor.store import Workspace
    from preceptor.training.launch import join_group

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for stage, changes in json.loads(sys.argv[2]):
        _, config, settings = STAGES[stage]
        try:
            join_group(Workspace(sys.argv[1]), config(**{"output": "out", **settings, **changes}))
        except UserError as error:
            # One write: `print` makes two under torchrun, and the ranks' lines would run into each other.
            os.write(sys.stdout.fileno(), f"rank {dist.get_rank()}: {error}\n".encode())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
