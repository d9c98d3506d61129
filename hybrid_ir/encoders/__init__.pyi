from .card import model_card as model_card
from .encoder import (
    PRESETS as PRESETS,
)
from .encoder import (
    Embedder as Embedder,
)
from .encoder import (
    best_device as best_device,
)
from .encoder import (
    create_encoder as create_encoder,
)
from .encoder import (
    encode as encode,
)
from .encoder import (
    freeze_unused as freeze_unused,
)
from .encoder import (
    load_encoder as load_encoder,
)
from .encoder import (
    resolve_precision as resolve_precision,
)
from .quiet import quiet_libraries as quiet_libraries
from .space import (
    check_space as check_space,
)
from .space import (
    difference as difference,
)
from .space import (
    probe_vectors as probe_vectors,
)
from .space import (
    space_of as space_of,
)
from .tokens import tokenize as tokenize
