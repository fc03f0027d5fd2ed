"""Plots as pure functions: candidates in, a plotly figure out."""
