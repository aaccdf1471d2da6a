"""Predictions and runs → one page that people look at before they launch.

inputs ─► figures (numbers with intervals) ─► document (JSON) ─► plots ─► page (HTML)
"""
