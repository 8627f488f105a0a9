#!/usr/bin/env python3
"""Makes the reference goldens of this folder with Hugging Face transformers.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 sentencepiece==0.2.3 numpy==2.3.5
    python make_goldens.py            # writes everything (a few minutes)
    python make_goldens.py --check    # compares what is written with an independent NumPy model, plants mistakes

What it writes:
    <name>/            a small random checkpoint, and logits.safetensors: tokens [n] I64, logits_f64 and logits_f32 [n, vocab]
    goldens.json       the list of those, with the differences that torch's own shorter types show
    components.*       inputs, weights and outputs of single modules: out in float64, out_f32 in float32
    shakespeare.json   likelihood of shakespeare_excerpt.txt and a greedy continuation, for the bundled model

logits_f64 and out are transformers in float64 with its casts to float32 lifted (norm, softmax, rotary cosine and sine),
except that the rotary frequency and angle stay float32 values, since they define what the models were trained with.
logits_f32 and out_f32 are transformers as it comes, in float32, none of it replaced. All come from eager attention.

Values stored as BF16 are exact in F16 too, so the same numbers can be loaded as any type.
"""
import argparse
import contextlib
import copy
import json
import math
import os
import pathlib
import platform
import shutil
import tempfile
import types
import zlib
from dataclasses import dataclass

# torch's vectorised pow differs from the correctly rounded one in an ulp here and there, depending on the processor.
# Its portable path does not, for any frequency used here (asserted below).
os.environ["ATEN_CPU_CAPABILITY"] = "default"

import numpy as np
import safetensors.torch as st
import torch
import torch.nn.functional as F
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral

import numpy_mistral

HERE = pathlib.Path(__file__).resolve().parent
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    name: str
    about: str
    tokens: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    window: int | None
    theta: float = 1e4
    eps: float = 1e-5
    tied: bool = False
    dtype: str = "BF16"
    form: str = "classic"  # config.json of 2023; "saved": save_pretrained's; "sharded": with an index; "consolidated"
    family: str = "mistral"
    omit: tuple[str, ...] = ()  # keys that a classic config.json leaves to their defaults


CASES = [
    Case("grouped", "two query heads to a key/value head", 24, 64, 96, 2, 4, 2, 16, 128, 8, form="saved"),
    Case("multi_query", "one key/value head; odd sizes", 23, 40, 50, 2, 4, 1, 8, 97, 5, eps=1e-6),
    Case("multi_head", "as many key/value heads as query heads; no window", 19, 48, 56, 2, 4, 4, 24, 101, None, theta=1e6),
    Case("window_one", "each token sees itself only", 12, 32, 48, 3, 4, 2, 8, 97, 1, eps=1e-6, form="saved"),
    Case("window_wide", "window beyond the text", 17, 64, 90, 2, 8, 2, 8, 113, 64, theta=1e6, form="saved"),
    Case("defaults", "no head_dim, no sliding_window: hidden / heads and 4096", 15, 64, 64, 1, 4, 2, 16, 97, 4096,
         eps=1e-6, omit=("head_dim", "sliding_window")),
    Case("no_window", "sliding_window null, as v0.2", 29, 72, 50, 3, 6, 2, 12, 128, None, theta=1e6, form="saved"),
    Case("tied", "tied embeddings, float32 values", 21, 40, 48, 2, 4, 2, 8, 150, 7, tied=True, dtype="F32", form="saved"),
    Case("head_dim_128", "heads far wider than hidden / heads", 20, 48, 40, 1, 2, 1, 128, 97, 6, theta=1e6),
    Case("head_dim_64", "three query heads of 64, float32 values", 16, 72, 50, 1, 3, 1, 64, 131, 5, eps=1e-6, dtype="F32"),
    Case("head_dim_small", "heads narrower than hidden / heads; deep", 26, 72, 66, 4, 6, 3, 8, 97, 9),
    Case("half", "float16 values", 18, 56, 64, 2, 4, 2, 16, 109, 6, theta=1e6, dtype="F16", form="saved"),
    Case("long", "the text is ten windows long", 60, 32, 48, 2, 4, 2, 8, 97, 6, form="saved"),
    Case("short", "five tokens, window 2, one layer", 5, 40, 40, 1, 5, 5, 8, 320, 2, theta=1e6, eps=1e-6),
    Case("sharded", "three shards with their index", 22, 64, 80, 2, 4, 2, 24, 127, 10, form="sharded"),
    Case("consolidated", "Mistral's own format: params.json, adjacent pairing", 25, 64, 88, 2, 4, 2, 16, 120, 7,
         form="consolidated"),
    Case("llama2", "LlamaForCausalLM, multi-head", 18, 64, 72, 2, 4, 4, 16, 128, None, family="llama",
         omit=("head_dim",)),
    Case("llama_grouped", "LlamaForCausalLM, grouped, tied", 20, 48, 60, 2, 6, 2, 16, 140, None, theta=5e5, eps=1e-6,
         tied=True, form="saved", family="llama"),
]


def model_config(c: Case):
    common = dict(
        vocab_size=c.vocab, hidden_size=c.hidden, intermediate_size=c.inner, num_hidden_layers=c.layers,
        num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, head_dim=c.head_dim, rms_norm_eps=c.eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.theta}, tie_word_embeddings=c.tied,
        max_position_embeddings=32768, attn_implementation="eager")
    return LlamaConfig(**common) if c.family == "llama" else MistralConfig(sliding_window=c.window, **common)


def classic_config(c: Case) -> dict:
    """config.json as published with Mistral 7B v0.1 and LLaMA 2."""
    mistral = c.family == "mistral"
    keys = dict(
        architectures=["MistralForCausalLM" if mistral else "LlamaForCausalLM"], bos_token_id=1, eos_token_id=2,
        head_dim=c.head_dim, hidden_act="silu", hidden_size=c.hidden, initializer_range=0.02, intermediate_size=c.inner,
        max_position_embeddings=32768, model_type=c.family, num_attention_heads=c.heads, num_hidden_layers=c.layers,
        num_key_value_heads=c.kv_heads, rms_norm_eps=c.eps, rope_theta=c.theta, sliding_window=c.window,
        tie_word_embeddings=c.tied, torch_dtype={"BF16": "bfloat16", "F32": "float32"}[c.dtype],
        transformers_version="4.34.0.dev0", use_cache=True, vocab_size=c.vocab)
    if not mistral:
        keys |= dict(pretraining_tp=1, rope_scaling=None)
        del keys["sliding_window"]
    return {k: v for k, v in keys.items() if k not in c.omit}


def representable(x: torch.Tensor, dtype: str) -> torch.Tensor:
    """Rounds float32 values to ones that dtype holds; BF16 values are made exact in F16 as well."""
    return {"F32": x, "F16": x.half().float(), "BF16": x.bfloat16().half().float()}[dtype]


def random_weights(c: Case, names_and_shapes) -> dict:
    """Larger than a fresh model's: attention is far from uniform and logits are of order 10. Embeddings are small, as in
    trained models, so that eps matters."""
    generator = torch.Generator().manual_seed(zlib.crc32(c.name.encode()))
    gain = dict(q_proj=1.3, k_proj=1.3, v_proj=1.0, o_proj=1.2, gate_proj=1.2, up_proj=1.2, down_proj=1.2, lm_head=2.5)
    weights = {}
    for name, shape in names_and_shapes:
        x = torch.randn(shape, generator=generator)
        kind = name.split(".")[-2]
        if kind == "embed_tokens":
            x *= 0.03
        elif kind.endswith("norm"):
            x = 1 + 0.3 * x
            if kind == "norm" and c.tied:
                x *= 12
        else:
            x *= gain[kind] / math.sqrt(shape[1])
        weights[name] = representable(x, c.dtype)
    return weights


def to_consolidated(weights: dict, c: Case) -> dict:
    """Mistral's names; query and key rows from pairs (i, i + head_dim / 2) to pairs (2i, 2i + 1)."""
    names = {"model.embed_tokens": "tok_embeddings", "lm_head": "output", "model.norm": "norm", "model.layers": "layers",
             "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
             "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
             "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}
    result = {}
    for name, w in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            w = w.view(-1, 2, c.head_dim // 2, c.hidden).transpose(1, 2).reshape(-1, c.hidden)
        for old, new in names.items():
            name = name.replace(old, new)
        result[name] = w.contiguous()
    return result


def from_consolidated(weights: dict) -> dict:
    """Hugging Face's names, rows left as they are."""
    names = {"tok_embeddings": "model.embed_tokens", "output": "lm_head", "attention_norm": "input_layernorm",
             "ffn_norm": "post_attention_layernorm", "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
             "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj",
             "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj"}
    result = {}
    for name, w in weights.items():
        name = f"model.{name}" if name.startswith(("layers.", "norm.")) else name
        for old, new in names.items():
            name = name.replace(old, new)
        result[name] = w
    return result


def save_checkpoint(c: Case, folder: pathlib.Path) -> None:
    """A Hugging Face checkpoint in the form of the case (consolidated ones first become a saved one)."""
    family = LlamaForCausalLM if c.family == "llama" else MistralForCausalLM
    model = family(model_config(c)).to(DTYPES[c.dtype])
    shapes = [(name, p.shape) for name, p in model.named_parameters()]
    weights = {name: w.to(DTYPES[c.dtype]) for name, w in random_weights(c, shapes).items()}
    model.load_state_dict(weights, strict=not c.tied)
    model.save_pretrained(folder, max_shard_size="64KB" if c.form == "sharded" else "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if c.form == "classic":
        write_json(folder / "config.json", classic_config(c))


def publish_consolidated(c: Case, source: pathlib.Path, folder: pathlib.Path) -> None:
    weights = to_consolidated(st.load_file(source / "model.safetensors"), c)
    st.save_file(weights, folder / "consolidated.safetensors")
    write_json(folder / "params.json", dict(
        dim=c.hidden, n_layers=c.layers, head_dim=c.head_dim, hidden_dim=c.inner, n_heads=c.heads, n_kv_heads=c.kv_heads,
        norm_eps=c.eps, sliding_window=c.window, vocab_size=c.vocab, rope_theta=c.theta))


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


# transformers without its casts to float32

def exact_norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def exact_rotary(self, x, position_ids):
    angle = position_ids[..., None].float() * self.inv_freq.float()
    angle = torch.cat((angle, angle), -1).to(x.dtype)
    return angle.cos(), angle.sin()


def exact_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    groups = module.num_key_value_groups
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    weights = F.softmax(scores if attention_mask is None else scores + attention_mask, dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


@contextlib.contextmanager
def casts_lifted():
    places = []
    for module, prefix in ((modeling_mistral, "Mistral"), (modeling_llama, "Llama")):
        places += [(getattr(module, f"{prefix}RMSNorm"), "forward", exact_norm),
                   (getattr(module, f"{prefix}RotaryEmbedding"), "forward", exact_rotary),
                   (module, "eager_attention_forward", exact_attention)]
    before = [getattr(owner, name) for owner, name, _ in places]
    for owner, name, exact in places:
        setattr(owner, name, exact)
    try:
        yield
    finally:
        for (owner, name, _), old in zip(places, before):
            setattr(owner, name, old)


def load(folder: pathlib.Path, dtype: torch.dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    rotary, config = model.model.rotary_emb, model.config
    assert rotary.inv_freq.dtype == torch.float32
    expected = numpy_mistral.frequencies(config.head_dim, config.rope_parameters["rope_theta"])
    assert np.array_equal(rotary.inv_freq.numpy(), expected), "torch's float32 frequencies are not the rounded ones"
    return model


@torch.no_grad()
def run(folder: pathlib.Path, dtype: torch.dtype, tokens) -> torch.Tensor:
    model = load(folder, dtype)
    with casts_lifted() if dtype == torch.float64 else contextlib.nullcontext():
        return model(torch.tensor([tokens]), use_cache=False).logits[0]


def difference(logits: torch.Tensor, exact: torch.Tensor) -> dict:
    """Largest and root mean square difference of logits, and mean KL(exact || logits) in nats per token."""
    d = logits.double() - exact
    p, q = F.log_softmax(exact, -1), F.log_softmax(logits.double(), -1)
    return dict(max_abs=d.abs().max().item(), rms=d.pow(2).mean().sqrt().item(), mean_kl=(p.exp() * (p - q)).sum(-1).mean().item())


def make_case(c: Case) -> dict:
    folder = HERE / c.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    generator = torch.Generator().manual_seed(zlib.crc32(c.name.encode()) + 1)
    tokens = [1] + torch.randint(3, c.vocab, (c.tokens - 1,), generator=generator).tolist()
    with tempfile.TemporaryDirectory() as temporary:
        source = pathlib.Path(temporary) if c.form == "consolidated" else folder
        save_checkpoint(c, source)
        if c.form == "consolidated":
            publish_consolidated(c, source, folder)
        f64, f32, f16, bf16 = (run(source, d, tokens) for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16))
    st.save_file(dict(tokens=torch.tensor(tokens), logits_f64=f64, logits_f32=f32), folder / "logits.safetensors")
    largest = f64.abs().max().item()
    return dict(
        name=c.name, about=c.about, form=c.form, dtype=c.dtype, family=c.family, tokens=c.tokens, vocab=c.vocab,
        hidden=c.hidden, inner=c.inner, layers=c.layers, query_heads=c.heads, kv_heads=c.kv_heads, head_dim=c.head_dim,
        window=c.window, theta=c.theta, eps=c.eps, tied=c.tied, max_abs_logit=largest,
        f32_max_relative=difference(f32, f64)["max_abs"] / largest, torch_bf16=difference(bf16, f64),
        torch_f16=difference(f16, f64))


@torch.no_grad()
def make_components() -> None:
    """Single modules in float64, and in float32 as they come; inputs and weights are exact in BF16 and F16."""
    generator = torch.Generator().manual_seed(20)
    tensors, manifest = {}, []

    def random(*shape, scale=1.0, shift=0.0):
        return representable(shift + scale * torch.randn(shape, generator=generator), "BF16").double()

    def fill(module):
        for p in module.parameters():
            p.data = random(*p.shape, scale=1.3 / math.sqrt(p.shape[1])) if p.dim() == 2 else random(*p.shape, scale=0.3, shift=1)
        return module

    def record(kind, parameters, compute, module=None, **inputs):
        """Stores compute(module, *inputs) in both types; arrays [1, tokens, size] lose the first dimension."""
        name = f"{kind}_{sum(m['kind'] == kind for m in manifest)}"
        with casts_lifted():
            out = compute(module, *inputs.values())
        out_f32 = compute(copy.deepcopy(module).float() if module else None, *(x.float() for x in inputs.values()))
        assert out.dtype == torch.float64 and out_f32.dtype == torch.float32
        weights = dict(module.named_parameters()) if module else {}
        for key, value in {**inputs, "out": out, "out_f32": out_f32, **weights}.items():
            tensors[f"{name}.{key}"] = value.detach().reshape(value.shape[-2:]).contiguous().clone()
        manifest.append(dict(name=name, kind=kind, **parameters))

    for tokens, size, eps, scale in ((1, 5, 1e-5, 1.0), (3, 40, 1e-5, 0.004), (4, 72, 1e-6, 0.002), (2, 64, 1e-6, 500.0)):
        norm, x = fill(modeling_mistral.MistralRMSNorm(size, eps)), random(tokens, size, scale=scale)
        record("rms_norm", dict(eps=eps), lambda norm, x: norm(x), norm, x=x)

    for first, tokens, heads, head_dim, theta in ((0, 5, 2, 16, 1e4), (7, 3, 1, 8, 1e6), (4095, 3, 3, 24, 1e4),
                                                  (32766, 2, 1, 64, 1e6), (131070, 2, 2, 128, 1e6), (1000000, 2, 1, 128, 1e4)):
        config = MistralConfig(head_dim=head_dim, rope_parameters={"rope_type": "default", "rope_theta": theta})
        rotary = modeling_mistral.MistralRotaryEmbedding(config)
        assert np.array_equal(rotary.inv_freq.numpy(), numpy_mistral.frequencies(head_dim, theta))

        def rotate(_, x):
            cos, sin = rotary(x, torch.arange(first, first + tokens)[None])
            q = x.view(1, tokens, heads, head_dim).transpose(1, 2)
            return modeling_mistral.apply_rotary_pos_emb(q, q, cos, sin)[0].transpose(1, 2).reshape(tokens, -1)

        record("rotary", dict(first_position=first, heads=heads, head_dim=head_dim, theta=theta), rotate,
               x=random(tokens, heads * head_dim))
        tensors[f"{manifest[-1]['name']}.frequencies"] = rotary.inv_freq.clone()

    for hidden, inner, tokens in ((8, 12, 1), (40, 50, 3), (24, 7, 5)):
        mlp, x = fill(modeling_mistral.MistralMLP(MistralConfig(hidden_size=hidden, intermediate_size=inner))), random(tokens, hidden)
        record("feed_forward", dict(), lambda mlp, x: mlp(x), mlp, x=x)

    def mask_of(config, x, positions):
        make_mask = create_causal_mask if config.sliding_window is None else create_sliding_window_causal_mask
        return make_mask(config=config, inputs_embeds=x, attention_mask=None, past_key_values=None, position_ids=positions)

    for kind, hidden, inner, heads, kv_heads, head_dim, window, theta, tokens in (
            ("attention", 24, 1, 4, 2, 8, 3, 1e4, 11), ("attention", 20, 1, 4, 1, 8, 1, 1e4, 4),
            ("attention", 24, 1, 3, 3, 24, None, 1e6, 9), ("attention", 32, 1, 4, 2, 16, 40, 1e6, 7),
            ("attention", 12, 1, 2, 1, 64, 2, 1e4, 6), ("block", 24, 50, 4, 2, 8, 4, 1e4, 10),
            ("block", 40, 36, 4, 1, 8, None, 1e6, 8)):
        config = MistralConfig(
            hidden_size=hidden, intermediate_size=inner, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
            sliding_window=window, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": theta},
            attn_implementation="eager")
        whole = kind == "block"
        module = fill((modeling_mistral.MistralDecoderLayer if whole else modeling_mistral.MistralAttention)(config, 0))
        positions = torch.arange(tokens)[None]

        def run_layer(module, x):
            angles = modeling_mistral.MistralRotaryEmbedding(config)(x, positions)
            out = module(x, position_embeddings=angles, attention_mask=mask_of(config, x, positions))
            return out if whole else out[0]

        parameters = dict(query_heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window, theta=theta)
        record(kind, parameters | (dict(eps=1e-5) if whole else {}), run_layer, module, x=random(1, tokens, hidden))

    for heads, kv_heads, head_dim, window, tokens in ((4, 2, 8, 3, 14), (3, 1, 64, 5, 23), (2, 2, 16, 1, 4), (6, 2, 24, None, 9)):
        config = MistralConfig(sliding_window=window, attn_implementation="eager")
        layer = types.SimpleNamespace(num_key_value_groups=heads // kv_heads, training=False)

        def attend(_, queries, keys, values):
            mask = mask_of(config, queries[None], torch.arange(tokens)[None])
            q, k, v = (x.view(1, tokens, -1, head_dim).transpose(1, 2) for x in (queries, keys, values))
            return modeling_mistral.eager_attention_forward(layer, q, k, v, mask, scaling=head_dim**-0.5)[0].reshape(tokens, -1)

        record("sliding_window", dict(query_heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window), attend,
               queries=random(tokens, heads * head_dim, scale=2.0), keys=random(tokens, kv_heads * head_dim),
               values=random(tokens, kv_heads * head_dim))

    st.save_file(tensors, HERE / "components.safetensors")
    write_json(HERE / "components.json", manifest)


@torch.no_grad()
def make_shakespeare(folder: pathlib.Path) -> None:
    import sentencepiece

    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    text = (HERE / "shakespeare_excerpt.txt").read_text()
    tokens = [1] + tokenizer.encode(text)
    scores, exact = {}, None
    for name, dtype in (("f64", torch.float64), ("f32", torch.float32), ("bf16", torch.bfloat16)):
        logits = run(folder, dtype, tokens)
        exact = logits if exact is None else exact
        nll = F.cross_entropy(logits[:-1].double(), torch.tensor(tokens[1:]))
        scores[name] = dict(mean_nll=nll.item(), **({} if logits is exact else difference(logits, exact)))

    prompt = [1] + tokenizer.encode("ROMEO:")
    model, continued, log_probs, margins = load(folder, torch.float32), list(prompt), [], []
    for _ in range(64):
        row = model(torch.tensor([continued]), use_cache=False).logits[0, -1].double()
        best = row.topk(2)
        continued.append(best.indices[0].item())
        log_probs.append(F.log_softmax(row, -1)[continued[-1]].item())
        margins.append((best.values[0] - best.values[1]).item())
    greedy = continued[len(prompt):]
    write_json(HERE / "shakespeare.json", dict(
        model="the bundled Shakespeare model, sliding window 64", text="shakespeare_excerpt.txt", predicted=len(tokens) - 1,
        scores=scores, prompt="ROMEO:", prompt_tokens=prompt, greedy_tokens=greedy, greedy_log_probs_f32=log_probs,
        greedy_smallest_margin=min(margins), greedy_text=tokenizer.decode(greedy), tokens=tokens))


def geometry(c: Case) -> numpy_mistral.Geometry:
    return numpy_mistral.Geometry(c.layers, c.heads, c.kv_heads, c.head_dim, c.window, c.theta, c.eps,
                                  adjacent=c.form == "consolidated")


def stored_weights(folder: pathlib.Path) -> dict:
    """Every tensor of a published checkpoint in float64, by its Hugging Face name."""
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name != "logits.safetensors":
            weights |= {name: w.double().numpy() for name, w in st.load_file(file).items()}
    return from_consolidated(weights) if "tok_embeddings.weight" in weights else weights


def check(shakespeare: pathlib.Path) -> None:
    print("                 NumPy     float32   logit |  change of the logits by a planted mistake (float32's bar: 1e-4 of the logits)")
    for c in CASES:
        golden = st.load_file(HERE / c.name / "logits.safetensors")
        tokens, exact = golden["tokens"].numpy(), golden["logits_f64"].numpy()
        weights, g = stored_weights(HERE / c.name), geometry(c)
        largest = np.abs(exact).max()
        ours = np.abs(numpy_mistral.logits(tokens, weights, g) - exact).max() / largest
        f32 = np.abs(golden["logits_f32"].numpy() - exact).max() / largest
        assert ours < 1e-12 and f32 < 1e-5, (c.name, ours, f32)
        changes = {name: np.abs(numpy_mistral.logits(tokens, weights, wrong) - exact).max()
                   for name, wrong in numpy_mistral.mistakes(g, len(tokens), c.hidden)}
        print(f"{c.name:16} {ours:.1e}  {f32:.1e}  {largest:5.1f} | ", "  ".join(f"{k} {v:.2g}" for k, v in changes.items()))
        assert min(changes.values()) > 3e-4 * largest, (c.name, changes)

    stored = json.loads((HERE / "shakespeare.json").read_text())
    tokens, weights = stored["tokens"], stored_weights(shakespeare)
    right = numpy_mistral.Geometry(4, 8, 2, 32, 64, 1e4, 1e-5)
    for name, g in [("as it is", right), *numpy_mistral.mistakes(right, len(tokens), 256)]:
        nll = F.cross_entropy(torch.tensor(numpy_mistral.logits(tokens, weights, g)[:-1]), torch.tensor(tokens[1:])).item()
        print(f"shakespeare, {name:10}: mean negative log-likelihood {nll:.9f}, golden {stored['scores']['f64']['mean_nll']:.9f}")
        assert name != "as it is" or abs(nll - stored["scores"]["f64"]["mean_nll"]) < 1e-11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="check what is written instead of writing")
    parser.add_argument("--shakespeare", type=pathlib.Path, default=HERE.parents[2] / "examples/models/shakespeare",
                        help="folder of the bundled model")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if arguments.check:
        return check(arguments.shakespeare)
    configs = [make_case(c) for c in CASES]
    make_components()
    make_shakespeare(arguments.shakespeare)
    write_json(HERE / "goldens.json", dict(
        made_with=dict(python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__,
                       numpy=np.__version__), configs=configs))


if __name__ == "__main__":
    main()
