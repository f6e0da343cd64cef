"""A small made-up world with users, writers, labelers and a gold judge: the whole loop without people.

Standard library only. Everything follows from seeds alone; nothing depends on the process.
"""
