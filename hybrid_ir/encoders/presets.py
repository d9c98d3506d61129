"""Presets: small encoders from scratch. In: texts, sizes and a seed. Out: a Hugging Face folder, always the same."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from hybrid_ir.encoders.portable import rename_tokenizer

PRESETS: dict[str, dict[str, Any]] = {
    # About 0.3 and 3 million parameters besides the vocabulary's: for laptops, tests and the quickstart.
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256},
    "mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
}
PRESET_TOKENS = 256
"""Tokens of the longest text that a preset reads, unless it is told."""
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # in XLM-R's order: its position ids count from the pad id


def create_encoder(
    preset: str, texts: Iterable[str], folder: str | Path, *, vocabulary: int, max_tokens: int, seed: int
) -> None:
    """Save a from-scratch XLM-R-shaped encoder: a BPE tokenizer trained on `texts`, random weights from `seed`.

    BPE and not XLM-R's Unigram: its training is a count of pairs, the same every time, where Unigram's sums of floats
    differ from run to run (and take ten times as long).
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    # A line break or a zero-width space within a text is a space, as it is to XLM-R's SentencePiece.
    spaces = normalizers.Replace(Regex(r"[\s\u200b\u2060\ufeff]+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL_TOKENS, max_token_length=16, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    config = XLMRobertaConfig(
        **PRESETS[preset],
        # A small model on a small store learns as well without dropout (measured), in half the time on a CPU.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        vocab_size=len(fast),
        max_position_embeddings=max_tokens + 2,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = XLMRobertaModel(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    rename_tokenizer(fast, folder)
