"""Variants of one experiment, trained on the same data with the same seeds and judged together.

A study (`study`) names variants; without one, `variants` derives the standard ones from a config.
Each becomes runs (`runs`), whose predictions are judged (`judge`) and shown (`show`).
"""
