"""Seeing plans and graphs: a page, text for a terminal, and pictures for notebooks."""

from rainshed.engine.measured import MachineMeasured, Measured
from rainshed.engine.view.compare import PlanComparison, compare
from rainshed.engine.view.notebook import graph_repr_html, html_formatter, plan_repr_html, show_in_notebooks
from rainshed.engine.view.page import plan_html
from rainshed.engine.view.text import plan_text

__all__ = [
    "MachineMeasured",
    "Measured",
    "PlanComparison",
    "compare",
    "graph_repr_html",
    "html_formatter",
    "plan_html",
    "plan_repr_html",
    "plan_text",
    "show_in_notebooks",
]
