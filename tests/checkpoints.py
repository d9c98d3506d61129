"""Small random checkpoints, one of each layout that the encoder must read. Tests make them; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from hybrid_ir.encoders.presets import create_encoder

TEXTS = [
    "What is the capital of France?",
    "Paris is the capital of France, on the river Seine.",
    "¿Cuál es la capital de España?",
    "Die Hauptstadt von Deutschland ist Berlin.",
    "東京は日本の首都です。",
    "Москва — столица России.",
    "ما هي عاصمة مصر؟",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
]


def make_preset(folder: Path, max_tokens: int = 32, seed: int = 0) -> Path:
    create_encoder("tiny", TEXTS * 4, folder, vocabulary=400, max_tokens=max_tokens, seed=seed)
    return folder


def make_xlm_roberta(folder: Path, positions: int = 34, hidden: int = 32) -> Path:
    """A plain Hugging Face folder of XLM-R's architecture, as FacebookAI/xlm-roberta-base is."""
    make_preset(folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    return _with_xlm_roberta(folder, vocabulary, positions, hidden)


def _with_xlm_roberta(folder: Path, vocabulary: int, positions: int = 34, hidden: int = 32) -> Path:
    """Random weights of XLM-R's architecture, beside a tokenizer that is there."""
    torch.manual_seed(1)
    XLMRobertaModel(
        XLMRobertaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * hidden,
            max_position_embeddings=positions,
            type_vocab_size=1,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
        )
    ).save_pretrained(folder)
    return folder


def make_unigram(folder: Path) -> Path:
    """XLM-R as the hub has it: SentencePiece Unigram, special tokens first, `<mask>` last, rows of no piece."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=220, unk_token="<unk>", special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=("</s>", 2), cls_token=("<s>", 0), add_prefix_space=False
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_max_length=32,
    ).save_pretrained(folder)  # fmt: skip
    return _with_xlm_roberta(folder, tokenizer.get_vocab_size() + 7)


def make_bert(folder: Path, positions: int = 40, hidden: int = 32) -> Path:
    """A plain Hugging Face folder of BERT's architecture with a WordPiece tokenizer, as mBERT is."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(2)
    BertModel(
        BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=hidden,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * hidden,
            max_position_embeddings=positions,
        )
    ).save_pretrained(folder)
    return folder


def make_labse(folder: Path, hidden: int = 32) -> Path:
    """LaBSE's own files: BERT, pooling of the first token, dense layer with tanh, normalising; the old class names."""
    make_bert(folder, hidden=hidden)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    files = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": 20, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": hidden,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
        "2_Dense/config.json": {
            "in_features": hidden,
            "out_features": 24,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    }
    (folder / "3_Normalize").mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    generator = torch.Generator().manual_seed(3)
    weights = {
        "linear.weight": torch.randn(24, hidden, generator=generator),
        "linear.bias": torch.randn(24, generator=generator),
    }
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    return folder


def make_modernbert(folder: Path, hidden: int = 32) -> Path:
    """A plain folder of ModernBERT's architecture: rotary positions, whose angles are not the architecture's own."""
    make_bert(folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(4)
    angles = {"full_attention": 160.0, "sliding_attention": 20.0}
    ModernBertModel(
        ModernBertConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=2 * hidden,
            max_position_embeddings=64,
            global_attn_every_n_layers=2,
            local_attention=8,
            pad_token_id=0,
            bos_token_id=2,
            cls_token_id=2,
            eos_token_id=3,
            sep_token_id=3,
            rope_parameters={kind: {"rope_type": "default", "rope_theta": x} for kind, x in angles.items()},
        )
    ).save_pretrained(folder)
    return folder


def make_decoder(folder: Path, kind: str = "qwen3", hidden: int = 32, layers: int = 2) -> Path:
    """A plain folder of Qwen's architecture, whose tokenizer pads on the left and ends each text with a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="$A <|endoftext|>",
                pair="$A <|endoftext|> $B <|endoftext|>",
                special_tokens=[("<|endoftext|>", 0)],
            ),
        ]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left", model_max_length=4096,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(5)
    config, model = {"qwen2": (Qwen2Config, Qwen2Model), "qwen3": (Qwen3Config, Qwen3Model)}[kind]
    model(
        config(
            vocab_size=tokenizer.get_vocab_size() + 5,  # rows of no piece, as Qwen's has
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=hidden // 4,
            intermediate_size=2 * hidden,
            max_position_embeddings=256,
            bos_token_id=0,
            eos_token_id=0,
            initializer_range=0.3,  # 0.02 leaves so small a model near to linear in its last token
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        )
    ).save_pretrained(folder)
    return folder


def make_qwen_embedding(folder: Path, kind: str = "qwen3", layers: int = 2) -> Path:
    """Qwen3-Embedding's own files: a decoder, pooling of the last token, normalising, a prompt for queries alone."""
    hidden = 32
    make_decoder(folder, kind, hidden, layers)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    prompt = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    files = {
        "modules.json": modules,
        "config_sentence_transformers.json": {
            "prompts": {"query": prompt, "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": hidden,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True,
            "include_prompt": True,
        },
    }
    (folder / "2_Normalize").mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def make_cross_encoder(folder: Path, kind: str = "xlm-roberta", labels: int = 1) -> Path:
    """A reranker's folder: random weights of a small BERT or XLM-R with a head of `labels` outputs."""
    {"bert": make_bert, "xlm-roberta": make_unigram}[kind](folder)
    if kind == "bert":  # as its own tokenizer's class has it
        said = json.loads((folder / "tokenizer_config.json").read_text())
        said["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
    model = {"bert": BertForSequenceClassification, "xlm-roberta": XLMRobertaForSequenceClassification}[kind]
    config = AutoConfig.from_pretrained(folder, num_labels=labels)
    torch.manual_seed(6)
    made = model(config)
    for parameter in made.parameters():  # 0.02 leaves scores that are all but equal
        parameter.data.mul_(5)
    made.save_pretrained(folder)
    return folder
