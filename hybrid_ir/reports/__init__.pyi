from .figures import (
    INK as INK,
)
from .figures import (
    LINE as LINE,
)
from .figures import (
    MUTED as MUTED,
)
from .figures import (
    PAPER as PAPER,
)
from .figures import (
    SERIES as SERIES,
)
from .figures import (
    drawing as drawing,
)
from .figures import (
    legend as legend,
)
from .figures import (
    quiet as quiet,
)
from .figures import (
    render as render,
)
from .figures import (
    svg as svg,
)
from .pages import (
    heat_map_png as heat_map_png,
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
