"""Under torchrun: each rank loads the models in ROOT divided, and compares with models loaded whole."""

import json
import os
import resource
import sys
import warnings
from pathlib import Path


def resident() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def compare(folder: Path) -> dict:
    import torch

    from preceptor.models.load import load_policy, load_scalar, scalar_from_policy
    from preceptor.models.logprobs import sequence_logprobs
    from preceptor.models.shard import whole

    blocks = torch.arange(24).view(2, 12) + 5
    blocks[0, 3], blocks[1, 4] = 1, 151  # the padding token, and the one in its place of the vocabulary's second half
    found = {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for name, load, options in (
            ("policy", load_policy, {}),
            ("scalar", scalar_from_policy, {"seed": 3}),
            ("judge", load_scalar, {"frozen": True}),
        ):
            if not (folder / name).is_dir():
                continue
            part, one = load(folder / name, divided=True, **options), load(folder / name, **options)
            with whole(part) as complete:
                pairs = list(zip(complete.state_dict().items(), one.state_dict().items(), strict=True))
                same = all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)
            gap = gradient_gap = 0.0
            if name == "policy":
                ours, theirs = sequence_logprobs(part, blocks), sequence_logprobs(one, blocks)
                gap = float((ours - theirs).detach().abs().max())
                ours.mean().backward()
                theirs.mean().backward()
                gradients = [
                    (a.grad.full_tensor(), b.grad) for a, b in zip(part.parameters(), one.parameters(), strict=True)
                ]
                gradient_gap = max(float((a - b).abs().max()) for a, b in gradients)
            trained = {parameter.requires_grad for parameter in part.parameters()}
            own = sum(parameter.to_local().numel() for parameter in part.parameters())
            found[name] = {
                "same": same,
                "gap": gap,
                "gradient_gap": gradient_gap,
                "kernels": part.config._attn_implementation == one.config._attn_implementation,
                "trained": sorted(trained),
                "own": own,
                "whole": sum(parameter.numel() for parameter in one.parameters()),
            }
    found["said"] = [str(each.message) for each in said if "reads all of them" in str(each.message)]
    return found


def weigh(folder: Path, divided: bool) -> dict:
    from preceptor.models.load import load_policy
    from preceptor.models.shard import shard

    before = resident()
    model = load_policy(folder, divided=divided)
    if not divided:
        shard(model)
    return {"taken": resident() - before, "weights": sum(4 * parameter.numel() for parameter in model.parameters())}


def main() -> None:
    import torch
    import torch.distributed as dist

    from preceptor.errors import UserError
    from preceptor.models import load  # noqa: F401 - its memory is not that of a model
    from preceptor.models.shard import lay_out

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for way, folder, *tensor in json.loads(sys.argv[1]):
        root = Path(folder)
        lay_out(*(tensor or [1]))
        try:
            said = compare(root) if way == "compare" else weigh(root, way == "divided")
        except UserError as error:
            said = {"refused": str(error)}
        # One write: `print` makes two under torchrun, and the ranks' lines would run into each other.
        os.write(sys.stdout.fileno(), (json.dumps(said) + "\n").encode())
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
