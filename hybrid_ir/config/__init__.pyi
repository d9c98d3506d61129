from .batch import KINDS as KINDS, Kind as Kind
from .experiment import (
    Evaluate as Evaluate,
    Experiment as Experiment,
    Index as Index,
    Serve as Serve,
    Train as Train,
)
from .loading import load_experiment as load_experiment, parse_experiment as parse_experiment
from .recipes import with_values as with_values
from .search import Pieces as Pieces
from .section import Section as Section, leaf_texts as leaf_texts, leaves as leaves, on_resume as on_resume
from .sources import Source as Source
from .validation import did_you_mean as did_you_mean, validate as validate
from .yaml_input import (
    parse_overrides as parse_overrides,
    read_mapping as read_mapping,
    split_override as split_override,
)
