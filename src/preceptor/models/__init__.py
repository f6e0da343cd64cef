"""Models in and out, what they say of given tokens, and how they attend.

transformers imports all of its losses with any model, and those of object detection import scipy: 40 MiB and a third
of a second for nothing. It is told once, while it does so, that there is no scipy.
"""

import transformers.utils as library

from preceptor.models.heap import keep_few_kernels

_found = library.is_scipy_available
library.is_scipy_available = lambda: False
try:
    import transformers.loss.loss_utils  # noqa: F401
finally:
    library.is_scipy_available = _found

keep_few_kernels()
