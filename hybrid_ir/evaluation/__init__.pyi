from .averages import evaluate_collection as evaluate_collection, with_mean as with_mean
from .evaluator import (
    LAREQA as LAREQA,
    averages_of as averages_of,
    count_texts as count_texts,
    encoder_of as encoder_of,
    evaluate as evaluate,
    load_test as load_test,
)
from .export_loss import compare_export as compare_export
from .perturbations import PERTURBATIONS as PERTURBATIONS, perturb as perturb
from .ranking import measure_run as measure_run
from .significance import Comparison as Comparison, compare_trials as compare_trials, holm as holm
from .tasks.tatoeba import nearest_is_own as nearest_is_own
