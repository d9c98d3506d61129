from .card import model_card as model_card
from .encoder import (
    PRESETS as PRESETS,
    Embedder as Embedder,
    best_device as best_device,
    create_encoder as create_encoder,
    encode as encode,
    freeze_unused as freeze_unused,
    load_encoder as load_encoder,
    resolve_precision as resolve_precision,
)
from .quiet import quiet_libraries as quiet_libraries
from .space import (
    check_space as check_space,
    difference as difference,
    probe_vectors as probe_vectors,
    space_of as space_of,
)
from .tokens import tokenize as tokenize
