"""Weights of another run, wherever they match: a new surface, a new task, a grown table.

What matches is decided by meaning and not by position: a row of a table by the id that reads it, a
column of a first layer by the feature that feeds it, a tower by its surface, a head by its task.
What is new starts as without a warm start, except that the columns of new inputs start at zero:
nothing new changes a prediction before it is trained.

Optimizers start fresh. Number features that the other run knew keep its statistics, because its
weights were trained on numbers in that scale; vocabularies are fitted on the new train split, and
rows follow their ids.
"""

from recsys.training.warm_start.load import Part, warm_start
from recsys.training.warm_start.show import print_parts, summary

__all__ = ["Part", "print_parts", "summary", "warm_start"]
