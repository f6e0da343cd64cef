"""`preceptor` and `python -m preceptor`: run a command, turn the user's mistakes into one line."""

import sys

from preceptor.cli import app
from preceptor.errors import UserError, need_extra

# module -> the extra that brings it
EXTRAS = {
    "torch": "train",
    "transformers": "train",
    "tokenizers": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "fastapi": "web",
    "uvicorn": "web",
    "argon2": "web",
    "limits": "web",
    "multipart": "web",
    "prometheus_client": "web",
    "jinja2": "web",
    "matplotlib": "eval",
    "sacrebleu": "eval",
    "rouge_score": "eval",
    "peft": "lora",
    "ray": "ray",
}


def main(arguments: list[str] | None = None) -> None:
    """Exit code 0: done. 2: the user's mistake, one line on standard error. 1: ours, with its traceback."""
    try:
        app(arguments)
    except UserError as error:
        sys.stderr.write(f"preceptor: {error}\n")  # one write: of several ranks the lines stay whole
        sys.exit(2)
    except ModuleNotFoundError as error:
        root = (error.name or "").split(".")[0]
        if root not in EXTRAS:
            raise
        print(f"preceptor: {need_extra(root, EXTRAS[root])}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("preceptor: stopped; what was saved is kept", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
