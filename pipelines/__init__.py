"""Pipelines over the components, and what compiles them."""
