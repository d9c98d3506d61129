from .collections import encoder_of as encoder_of, evaluate as evaluate, load_collection as load_collection
from .measures import evaluate_collection as evaluate_collection, with_mean as with_mean
from .perturbations import PERTURBATIONS as PERTURBATIONS, perturb as perturb
from .public_tasks import evaluate_task as evaluate_task, load_task as load_task
from .ranking import measure_run as measure_run
from .significance import Comparison as Comparison, compare_trials as compare_trials, holm as holm
from .tasks.pairs import nearest_is_own as nearest_is_own
from .tasks.result import TASKS as TASKS
