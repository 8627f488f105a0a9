#!/usr/bin/env python3
"""Writes a checkpoint of Mistral 7B's shape with made-up weights, to measure with what cannot be shipped.

    python3 make_checkpoint.py DIRECTORY                # 7.24 G parameters in bfloat16, 14.5 GB in three shards
    python3 make_checkpoint.py DIRECTORY --layers 2     # the same, shallower: 1.4 GB

Needs NumPy only. The layout is Hugging Face's: config.json (of v0.1, or v0.2 with --window 0), shards of at most 5 GB and
their index. The same arguments give the same bytes.

Weights are normal with a standard deviation of 0.02, those of norms lie around 1, so that activations stay finite. For
speed they are not drawn one by one: every tensor is a stretch of one random block of 2^25 numbers, repeated from a start of
its own. Rows and tensors differ, but what the model computes means nothing.
"""
import argparse
import json
import pathlib
import struct
import sys

import numpy as np

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM = 4096, 14336, 32, 8, 128
BLOCK = 1 << 25  # numbers in the random block
SHARD_BYTES = 5_000_000_000


def tensors(layers, vocab):
    """Names and shapes in the order of the files."""
    yield "model.embed_tokens.weight", (vocab, HIDDEN)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (HIDDEN,)
        yield prefix + "self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield prefix + "post_attention_layernorm.weight", (HIDDEN,)
        yield prefix + "mlp.gate_proj.weight", (INNER, HIDDEN)
        yield prefix + "mlp.up_proj.weight", (INNER, HIDDEN)
        yield prefix + "mlp.down_proj.weight", (HIDDEN, INNER)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (vocab, HIDDEN)


def bfloat16(values):
    """The bits of float32 values, rounded to the nearest bfloat16, ties to even."""
    bits = values.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def size_of(shape):
    return 2 * int(np.prod(shape, dtype=np.int64))


def shards_of(all_tensors):
    """Fills one shard after the other."""
    shards, used = [[]], 0
    for name, shape in all_tensors:
        if used > 0 and used + size_of(shape) > SHARD_BYTES:
            shards.append([])
            used = 0
        shards[-1].append((name, shape))
        used += size_of(shape)
    return shards


def header_of(shard):
    """The length and the header of a safetensors file, padded so that the data begin at a multiple of 64 bytes."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shard:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size_of(shape)]}
        offset += size_of(shape)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text


def write_tensor(file, block, start, count):
    """Writes `count` numbers of the block from `start` on, round and round."""
    start %= len(block)
    while count > 0:
        piece = block[start : start + count]
        file.write(memoryview(piece))
        count -= len(piece)
        start = 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--window", type=int, default=4096, help="0 for none")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.layers < 1 or arguments.vocab < 3 or arguments.window < 0:
        parser.error("layers must be 1 or more, vocab 3 or more, window 0 or more")

    random = np.random.Generator(np.random.PCG64(arguments.seed))
    weights = bfloat16(0.02 * random.standard_normal(BLOCK, dtype=np.float32))
    norms = bfloat16(1 + 0.1 * random.standard_normal(BLOCK >> 8, dtype=np.float32))

    arguments.directory.mkdir(parents=True, exist_ok=True)
    shards = shards_of(tensors(arguments.layers, arguments.vocab))
    weight_map, total = {}, 0
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        print(f"writing {name}", file=sys.stderr)
        with open(arguments.directory / name, "wb") as file:
            file.write(header_of(shard))
            for tensor, shape in shard:
                start = 1_000_003 * len(weight_map)  # prime: no two tensors begin alike
                write_tensor(file, norms if len(shape) == 1 else weights, start, size_of(shape) // 2)
                weight_map[tensor] = name
                total += size_of(shape)

    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    config = {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": arguments.layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "vocab_size": arguments.vocab, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
        "rope_theta": 1e4 if arguments.window else 1e6, "sliding_window": arguments.window or None,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
    }
    for name, content in {"model.safetensors.index.json": index, "config.json": config}.items():
        (arguments.directory / name).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
