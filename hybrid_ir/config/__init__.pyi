from .experiment import KINDS as KINDS
from .experiment import Experiment as Experiment
from .experiment import Index as Index
from .experiment import Kind as Kind
from .experiment import Serve as Serve
from .loading import load_experiment as load_experiment
from .loading import parse_experiment as parse_experiment
from .recipes import recipe_experiments as recipe_experiments
from .recipes import with_values as with_values
from .section import Section as Section
from .section import leaf_texts as leaf_texts
from .section import leaves as leaves
from .section import on_resume as on_resume
from .sources import Source as Source
from .validation import did_you_mean as did_you_mean
from .validation import validate as validate
from .yaml_input import (
    parse_overrides as parse_overrides,
)
from .yaml_input import (
    read_mapping as read_mapping,
)
from .yaml_input import (
    split_override as split_override,
)
