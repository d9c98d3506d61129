from .card import model_card as model_card
from .embedding import (
    Embedder as Embedder,
)
from .embedding import (
    best_device as best_device,
)
from .embedding import (
    encode as encode,
)
from .embedding import (
    freeze_unused as freeze_unused,
)
from .embedding import (
    resolve_precision as resolve_precision,
)
from .loading import load_encoder as load_encoder
from .presets import PRESETS as PRESETS
from .presets import create_encoder as create_encoder
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
from .tokens import Tokens as Tokens
from .tokens import tokenize as tokenize
