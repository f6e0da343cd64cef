"""What a full or failing disk says: one line, and nothing half written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preceptor.errors import UserError


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Inside, an error of the operating system while writing to `place` becomes a UserError.

    What is written inside goes to a temporary name, which the caller removes: so nothing is kept.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{place}: cannot be written: {error.strerror or error}; nothing was kept. "
            "Free some space, or mend the folder, and run it again"
        ) from error
