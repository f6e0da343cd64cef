"""Preceptor: from a base language model to one that follows its users' instructions."""

__version__ = "0.1.0"
