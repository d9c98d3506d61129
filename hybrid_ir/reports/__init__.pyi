from .charts import heat_map_png as heat_map_png
from .drawing_kit import (
    INK as INK,
)
from .drawing_kit import (
    LINE as LINE,
)
from .drawing_kit import (
    MUTED as MUTED,
)
from .drawing_kit import (
    PAPER as PAPER,
)
from .drawing_kit import (
    SERIES as SERIES,
)
from .drawing_kit import (
    drawing as drawing,
)
from .drawing_kit import (
    legend as legend,
)
from .drawing_kit import (
    quiet as quiet,
)
from .drawing_kit import (
    render as render,
)
from .drawing_kit import (
    svg as svg,
)
from .pages import (
    write_comparison as write_comparison,
)
from .pages import (
    write_report as write_report,
)
from .pages import (
    write_task_report as write_task_report,
)
from .training_log import read_log as read_log
