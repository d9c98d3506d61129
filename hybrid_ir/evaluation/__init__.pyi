from .averages import evaluate_collection as evaluate_collection, with_mean as with_mean
from .comparisons.corrected import (
    measure_correction as measure_correction,
    own_language as own_language,
    refuse_loss as refuse_loss,
)
from .comparisons.encoder_comparison import compare_encoders as compare_encoders, name_encoders as name_encoders
from .comparisons.export_loss import compare_export as compare_export
from .evaluator import (
    BM25 as BM25,
    LAREQA as LAREQA,
    averages_of as averages_of,
    count_texts as count_texts,
    encoder_of as encoder_of,
    evaluate as evaluate,
    load_measured as load_measured,
    load_test as load_test,
)
from .lexical import has_bm25 as has_bm25, require_bm25 as require_bm25
from .perturbations import PERTURBATIONS as PERTURBATIONS, perturb as perturb
from .public_tasks import JUDGED_TASKS as JUDGED_TASKS
from .ranking import measure_run as measure_run
from .significance import Comparison as Comparison, compare_trials as compare_trials, holm as holm
from .tasks.tatoeba import nearest_is_own as nearest_is_own
from .test_sets.layouts import TEST_SETS as TEST_SETS
