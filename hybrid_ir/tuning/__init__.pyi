from .choice import choose as choose, point_results as point_results
from .comparison import list_recipes as list_recipes, publish_comparison as publish_comparison
from .cost import (
    ASSUMED_TOKENS as ASSUMED_TOKENS,
    GPU_FLOPS as GPU_FLOPS,
    LAYERS as LAYERS,
    estimate_cost as estimate_cost,
    parameters as parameters,
)
from .page import write_sweep_report as write_sweep_report
from .page_parts import Findings as Findings
from .points import enumerate_points as enumerate_points, point_label as point_label
from .ray_trial import run_trial as run_trial
from .search_space import load_space as load_space
from .studies.findings import find as find, take_benchmark_as_test as take_benchmark_as_test
from .studies.ray_probes import probe_trials as probe_trials
from .studies.study import check_collections as check_collections, check_study as check_study, load_study as load_study
from .sweeps import (
    check_trials as check_trials,
    claim as claim,
    list_trials as list_trials,
    sweep as sweep,
    take_over as take_over,
)
