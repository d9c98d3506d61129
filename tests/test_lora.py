"""LoRA: the gradients of PEFT's own layers, checkpoints that go on to the bit, and what is published."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, make_bert, make_qwen_embedding, make_xlm_roberta
from peft import PeftModel
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from training_runs import experiment
from training_store import make_store
from transformers import AutoModel

from hybrid_ir.batches.from_experiment import builder_for, plan_for
from hybrid_ir.data.store import open_store
from hybrid_ir.encoders.derived.lora import ADAPTER, add_lora, merged
from hybrid_ir.encoders.embedding import Embedder, encode, freeze_unused
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.packed import can_pack
from hybrid_ir.encoders.portable import save_encoder
from hybrid_ir.encoders.space import space_of
from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.training.checkpoint import load_state, save_state
from hybrid_ir.training.step import LossSettings, backward, learning_rate_at, update
from hybrid_ir.types import InputError

MAKERS = {"xlm_roberta": make_xlm_roberta, "bert": make_bert, "qwen": make_qwen_embedding}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make(folder / name) for name, make in MAKERS.items()}


def adapted(folder: Path, *, rank: int = 3, seed: int = 1, **more) -> SentenceTransformer:
    """An encoder with an adapter that has learned something: B is not zero."""
    model = load_encoder(str(folder), dropout=0.0)
    torch.manual_seed(seed)
    add_lora(model, base=str(folder), rank=rank, alpha=8.0, **more)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def vectors(model: SentenceTransformer) -> np.ndarray:
    return encode(model, TEXTS, role="query", precision="fp32")


# What is trained


@pytest.mark.parametrize("targets", [None, ["query", "value"], ["output.dense"], ["intermediate.dense", "key"]])
@pytest.mark.parametrize("name", ["xlm_roberta", "bert"])
def test_packed_layers_have_the_vectors_and_gradients_of_pefts_own(folders, monkeypatch, name, targets):
    """In float64, where they are one function and only the order of adding differs."""
    found = []
    for packed in (True, False):
        model = adapted(folders[name], targets=targets).double()
        embedder = Embedder(model, precision="fp32", micro_batch_tokens=None).train()
        if not packed:
            monkeypatch.setattr("hybrid_ir.encoders.embedding.can_pack", lambda transformer, dtype: False)
        assert (embedder._weights_as_used() is not None) == packed
        made = embedder(TextReader.of(model).read(TEXTS, "document"))
        (made * torch.linspace(-1, 1, made.numel(), dtype=made.dtype).view(made.shape)).sum().backward()
        gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        found.append((made.detach(), gradients))
    (ours, our_gradients), (theirs, their_gradients) = found
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert our_gradients.keys() == their_gradients.keys()
    assert len(our_gradients) >= 2 * 2 * 2
    assert all("lora_" in key for key in our_gradients)
    for key, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, their_gradients[key], rtol=1e-9, atol=1e-12, msg=key)


def test_an_adapter_that_has_learned_nothing_changes_no_bit(folders):
    for folder in folders.values():
        model = load_encoder(str(folder))
        before = vectors(model)
        add_lora(model, base=str(folder), rank=2, alpha=4.0)
        np.testing.assert_array_equal(vectors(model), before)


def test_by_default_all_linear_layers_within_the_transformers_layers_are_changed(folders):
    """BERT's pooler is none of them, and no embedding depends on it."""
    bert = ["attention.output.dense", "attention.self.key", "attention.self.query", "attention.self.value"]
    bert += ["intermediate.dense", "output.dense"]
    attention = [f"self_attn.{x}_proj" for x in ("k", "o", "q", "v")]
    qwen = [*(f"mlp.{x}_proj" for x in ("down", "gate", "up")), *attention]
    for name, expected in (("xlm_roberta", bert), ("bert", bert), ("qwen", qwen)):
        model = load_encoder(str(folders[name]))
        assert add_lora(model, base="a", rank=2, alpha=4.0) == expected
        trained = [key for key, p in model.named_parameters() if p.requires_grad]
        assert len(trained) == 2 * 2 * len(expected)  # A and B, in both layers
        assert not any("pooler" in key for key in trained)
        assert freeze_unused(Embedder(model, precision="fp32", micro_batch_tokens=None)) == []


@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.parametrize("changed", ["recompute", "micro-batches", "cached"])
def test_memory_is_saved_without_a_change_of_the_gradient(folders, tmp_path, name, changed):
    make_store(tmp_path / "store", n=80)
    asked = experiment(tmp_path / "store", tmp_path / "run", f"encoder.name={folders[name]}", "encoder.dropout=0.0")
    store, found = open_store(asked.store), []
    for small in (False, True):
        model = adapted(folders[name])
        embedder = Embedder(
            model,
            precision="fp32",
            micro_batch_tokens=64 if small and changed != "recompute" else 4096,
            recompute=small and changed == "recompute",
        ).train()
        batch = builder_for(asked, store, plan_for(store, asked), TextReader.of(model)).build(0)
        loss = LossSettings(**asked.loss.model_dump() | {"cached": small and changed == "cached"})
        found.append([backward(embedder, batch, loss, 0, 1), *(p.grad for p in model.parameters() if p.requires_grad)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_dropout_of_the_change_leaves_the_layers_to_peft(folders):
    assert can_pack(adapted(folders["bert"])[0].model, None)
    assert not can_pack(adapted(folders["bert"], dropout=0.1)[0].model, None)


def test_8_bits_have_the_adapter_in_them(folders):
    """A layer with an adapter still has the bare weight under the name `weight`."""
    model = adapted(folders["bert"])
    exact, eighth = vectors(model), encode(model, TEXTS, role="query", precision="int8")
    assert (exact * eighth).sum(axis=1).min() > 0.99
    assert (exact * vectors(load_encoder(str(folders["bert"])))).sum(axis=1).max() < 0.985


# What is saved


@pytest.mark.parametrize("name", list(MAKERS))
def test_merged_it_is_the_plain_encoder_and_behind_it_no_bit_has_changed(folders, name):
    model = adapted(folders[name])
    ours, before = vectors(model), {key: p.clone() for key, p in model.state_dict().items()}
    with merged(model):
        assert set(model.state_dict()) == set(load_encoder(str(folders[name])).state_dict())
        np.testing.assert_allclose(vectors(model), ours, atol=2e-6)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("name", list(MAKERS))
def test_what_is_saved_opens_anywhere_and_the_adapter_in_peft(folders, tmp_path, name):
    model = adapted(folders[name])
    save_encoder(model, tmp_path / "saved")
    loaded = load_encoder(str(tmp_path / "saved"))
    np.testing.assert_allclose(vectors(loaded), vectors(model), atol=2e-6)
    texts = [TextReader.of(loaded).plain(text) for text in TEXTS]
    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode_query(texts)
    np.testing.assert_allclose(vectors(loaded), plain, atol=1e-5)
    copy = tmp_path / "copy"
    save_encoder(loaded, copy)
    assert not (copy / ADAPTER).exists()  # of an encoder that has none
    assert space_of(load_encoder(str(copy))) == space_of(loaded)

    opened = PeftModel.from_pretrained(AutoModel.from_pretrained(folders[name]), str(tmp_path / "saved" / ADAPTER))
    tokens = loaded.tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        by_peft = opened.eval()(**tokens).last_hidden_state
        by_us = AutoModel.from_pretrained(tmp_path / "saved").eval()(**tokens).last_hidden_state
    torch.testing.assert_close(by_peft, by_us, rtol=0, atol=2e-5)
    said = json.loads((tmp_path / "saved" / ADAPTER / "adapter_config.json").read_text())
    assert (said["peft_type"], said["r"], said["base_model_name_or_path"]) == ("LORA", 3, str(folders[name]))


# Resuming


def trained(asked, folder: Path, checkpoint: Path | None, until: int, out: Path) -> Path:
    """Train from the checkpoint, or the start, `until` so many steps are done; the new checkpoint."""
    for made in (out, out.parent / f"best-{out.name}"):
        made.mkdir(parents=True)
    state = load_state(asked, str(folder), checkpoint, out.parent / f"best-{out.name}", CPU)
    state.embedder.train()
    store, settings = open_store(asked.store), asked.train
    builder = builder_for(asked, store, plan_for(store, asked), TextReader.of(state.model))
    for step in range(state.progress.done, until):
        torch.manual_seed(step)
        batch = builder.build(step)
        backward(state.embedder, batch, LossSettings(**asked.loss.model_dump()), 0, 1)
        rate = learning_rate_at(step, peak=settings.learning_rate, warmup_steps=0, steps=settings.steps)
        update(state.optimizer, state.embedder, rate, settings.gradient_clip)
        state.progress.count(batch)
    save_state(state, out)
    return out


@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_training_that_was_stopped_ends_with_the_same_bits(folders, tmp_path, name, dropout):
    make_store(tmp_path / "store", n=60)
    asked = experiment(
        tmp_path / "store", tmp_path / "run", f"encoder.name={folders[name]}", "encoder.lora.rank=4",
        f"encoder.lora.dropout={dropout}", "encoder.dropout=0.1",
    )  # fmt: skip
    unbroken = trained(asked, folders[name], None, 6, tmp_path / "unbroken")
    stopped = trained(asked, folders[name], None, 2, tmp_path / "stopped")
    resumed = trained(asked, folders[name], stopped, 6, tmp_path / "resumed")
    for file in ("encoder/model.safetensors", f"encoder/{ADAPTER}/adapter_model.safetensors", "optimizer.safetensors"):
        ours, theirs = load_file(unbroken / file), load_file(resumed / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), file
        assert any(not torch.equal(ours[key], value) for key, value in load_file(stopped / file).items()), file
    assert not [path for path in unbroken.rglob("*") if path.suffix not in (".json", ".safetensors", "")]


def test_a_run_does_not_go_on_from_another_base(folders, tmp_path):
    make_store(tmp_path / "store", n=60)
    asked = experiment(tmp_path / "store", tmp_path / "run", f"encoder.name={folders['bert']}", "encoder.lora.rank=4")
    stopped = trained(asked, folders["bert"], None, 1, tmp_path / "stopped")
    other = make_bert(tmp_path / "other")
    weights = AutoModel.from_pretrained(other)
    weights.encoder.layer[0].output.dense.bias.data += 1
    weights.save_pretrained(other)
    with pytest.raises(InputError, match=r"other is another encoder now \(space \w+\) than the one whose adapter this"):
        load_state(asked, str(other), stopped, tmp_path / "best-stopped", CPU)
    more = experiment(tmp_path / "store", tmp_path / "run", f"encoder.name={folders['bert']}", "encoder.lora.rank=5")
    with pytest.raises(InputError, match="is an adapter of other layers or of another rank"):
        load_state(more, str(folders["bert"]), stopped, tmp_path / "best-stopped", CPU)


# What is refused


def test_a_target_that_is_no_layer_is_refused_with_those_that_are(folders):
    said = (
        r"encoder\.lora\.targets has 'q_proj', which is no linear layer of a BertModel; there are dense, key, query, "
        r"value; name some of these, or set it to null"
    )
    with pytest.raises(InputError, match=said):
        add_lora(load_encoder(str(folders["bert"])), base="a", rank=2, alpha=4.0, targets=["query", "q_proj"])


def test_without_peft_it_is_said_what_to_install(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        InputError, match=r"needs the package peft, which is not installed; run: pip install 'hybrid-ir"
    ):
        add_lora(load_encoder(str(folders["bert"])), base="a", rank=2, alpha=4.0)


# A whole run


@pytest.mark.slow
@pytest.mark.long
def test_two_workers_train_the_adapter_that_one_trains_and_publish_it_merged(tmp_path, ray_cluster):
    """docs/train.md, "LoRA", on a preset."""
    from hybrid_ir.training.run import train

    make_store(tmp_path / "store")
    asked = ["encoder.lora.rank=4", "train.steps=8", "train.evaluate_every=4", "train.learning_rate=1e-2"]
    for workers in (1, 2):
        out = tmp_path / f"run{workers}"
        train(experiment(tmp_path / "store", out, *asked, f"train.workers={workers}"), ray_cluster)
        assert (out / "checkpoint" / ADAPTER / "adapter_config.json").is_file()
        assert "LoRA of rank 4 and alpha 32" in (out / "checkpoint" / "README.md").read_text()
    manifest = json.loads((tmp_path / "run2" / "manifest.json").read_text())
    assert manifest["encoder"]["lora"]["trained"] < manifest["encoder"]["lora"]["of"] / 4
    files = [tmp_path / f"run{n}" / "checkpoint" / ADAPTER / "adapter_model.safetensors" for n in (1, 2)]
    alone, together = map(load_file, files)
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=0, atol=1e-4, msg=key)
    assert max(float(value.abs().max()) for key, value in alone.items() if "lora_B" in key) > 0.01

    initial, kept = (load_encoder(str(tmp_path / "run1" / name)) for name in ("initial", "checkpoint"))
    still = {"embeddings", "LayerNorm", "bias"}
    for (key, before), (_, after) in zip(initial.named_parameters(), kept.named_parameters(), strict=True):
        if any(word in key for word in still):
            assert torch.equal(before, after), key

    refused = experiment(tmp_path / "store", tmp_path / "no", "encoder.lora.rank=4", "encoder.lora.targets=[q_proj]")
    with pytest.raises(InputError, match="which is no linear layer of a XLMRobertaModel"):
        train(refused, ray_cluster)
    assert not list((tmp_path / "no").rglob("*.json"))
