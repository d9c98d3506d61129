from .experiment import (
    KINDS as KINDS,
)
from .experiment import (
    Experiment as Experiment,
)
from .experiment import (
    Index as Index,
)
from .experiment import (
    Kind as Kind,
)
from .experiment import (
    Serve as Serve,
)
from .experiment import (
    leaves as leaves,
)
from .experiment import (
    load_experiment as load_experiment,
)
from .experiment import (
    parse_experiment as parse_experiment,
)
from .experiment import (
    recipe_experiments as recipe_experiments,
)
from .experiment import (
    with_values as with_values,
)
from .sources import Section as Section
from .sources import Source as Source
