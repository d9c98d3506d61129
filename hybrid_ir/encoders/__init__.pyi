from .card import model_card as model_card
from .cross_encoder.reranker import (
    Reranker as Reranker,
    load_reranker as load_reranker,
    use_threads as use_threads,
)
from .derived.dimensions import declare_dimensions as declare_dimensions, keep_dimensions as keep_dimensions
from .derived.language_means import (
    LEAST_TEXTS as LEAST_TEXTS,
    Correction as Correction,
    apply_correction as apply_correction,
    learn_correction as learn_correction,
)
from .derived.layers import keep_layers as keep_layers
from .derived.lora import (
    ADAPTER as ADAPTER,
    add_lora as add_lora,
    check_peft as check_peft,
    load_adapter as load_adapter,
)
from .derived.vocabulary import Trimmed as Trimmed, trim_vocabulary as trim_vocabulary
from .embedding import (
    Embedder as Embedder,
    best_device as best_device,
    encode as encode,
    freeze_unused as freeze_unused,
    resolve_precision as resolve_precision,
)
from .foreign_code import carried_code as carried_code, hash_of as hash_of
from .loading import (
    PAPER_PREFIXES as PAPER_PREFIXES,
    check_source as check_source,
    dropout_of as dropout_of,
    load_encoder as load_encoder,
)
from .long_texts.pieces import cut_into_pieces as cut_into_pieces
from .onnx_export import (
    check_onnx as check_onnx,
    describe_onnx as describe_onnx,
    export_onnx as export_onnx,
    load_onnx as load_onnx,
)
from .packed.forward import token_vectors as token_vectors
from .packed.linear import weights_as_used as weights_as_used
from .portable import save_encoder as save_encoder, write_encoder as write_encoder
from .presets import PRESET_TOKENS as PRESET_TOKENS, PRESETS as PRESETS, create_encoder as create_encoder
from .push import files_to_push as files_to_push, push_encoder as push_encoder
from .quiet import quiet_libraries as quiet_libraries
from .restored import RESTORED as RESTORED, restored_encoder as restored_encoder
from .space import (
    check_prompts as check_prompts,
    check_space as check_space,
    difference as difference,
    probe_vectors as probe_vectors,
    space_of as space_of,
)
from .tokens import TextReader as TextReader, Tokens as Tokens, is_task as is_task, tokenize as tokenize
from .transfer import to_device as to_device
