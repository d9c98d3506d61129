from .averages import evaluate_collection as evaluate_collection
from .averages import with_mean as with_mean
from .evaluator import (
    averages_of as averages_of,
)
from .evaluator import (
    count_texts as count_texts,
)
from .evaluator import (
    encoder_of as encoder_of,
)
from .evaluator import (
    evaluate as evaluate,
)
from .evaluator import (
    load_test as load_test,
)
from .perturbations import PERTURBATIONS as PERTURBATIONS
from .perturbations import perturb as perturb
from .ranking import measure_run as measure_run
from .significance import Comparison as Comparison
from .significance import compare_trials as compare_trials
from .significance import holm as holm
from .tasks.tatoeba import nearest_is_own as nearest_is_own
