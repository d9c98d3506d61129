from .charts import heat_map_png as heat_map_png
from .drawing_kit import (
    INK as INK,
    LINE as LINE,
    MUTED as MUTED,
    PAPER as PAPER,
    SERIES as SERIES,
    drawing as drawing,
    legend as legend,
    quiet as quiet,
    render as render,
    svg as svg,
)
from .pages import (
    pair_matrix as pair_matrix,
    write_comparison as write_comparison,
    write_report as write_report,
    write_task_comparison as write_task_comparison,
    write_task_report as write_task_report,
)
from .training_log import read_log as read_log
