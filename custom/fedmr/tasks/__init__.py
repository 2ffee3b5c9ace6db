"""Kinds of task: what is trained on what, as settings and as code."""
