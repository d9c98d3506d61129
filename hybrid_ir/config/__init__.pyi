from .experiment import (
    KINDS as KINDS,
    Experiment as Experiment,
    Index as Index,
    Kind as Kind,
    Serve as Serve,
    leaves as leaves,
    load_experiment as load_experiment,
    parse_experiment as parse_experiment,
    recipe_experiments as recipe_experiments,
    with_values as with_values,
)
from .sources import Section as Section, Source as Source
