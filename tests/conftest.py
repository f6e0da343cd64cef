"""Puts this folder on the path, so that every test can import `tiny_models`, and keeps torch to one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
