from .resources import (
    DRIVER_CPUS as DRIVER_CPUS,
    bundles as bundles,
    check_resources as check_resources,
    concurrent_trials as concurrent_trials,
    encoding_options as encoding_options,
    use_encoding_threads as use_encoding_threads,
)
from .run import train as train
from .run_folder import is_complete as is_complete
from .step_time import measured_step_s as measured_step_s
