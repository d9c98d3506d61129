from .choice import choose as choose
from .choice import point_results as point_results
from .comparison import compare as compare
from .cost import (
    ASSUMED_TOKENS as ASSUMED_TOKENS,
)
from .cost import (
    GPU_FLOPS as GPU_FLOPS,
)
from .cost import (
    LAYERS as LAYERS,
)
from .cost import (
    estimate_cost as estimate_cost,
)
from .cost import (
    parameters as parameters,
)
from .page import Findings as Findings
from .page import write_sweep_report as write_sweep_report
from .points import enumerate_points as enumerate_points
from .points import point_label as point_label
from .search_space import load_space as load_space
from .studies.findings import find as find
from .studies.findings import take_benchmark_as_test as take_benchmark_as_test
from .studies.ray_probes import probe_trials as probe_trials
from .studies.study import check_collections as check_collections
from .studies.study import check_study as check_study
from .studies.study import load_study as load_study
from .sweeps import check_trials as check_trials
from .sweeps import claim as claim
from .sweeps import list_trials as list_trials
from .sweeps import sweep as sweep
