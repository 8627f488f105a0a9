#!/usr/bin/env python3
"""Measures llama.cpp on this machine, on models of Mistral 7B's shape with made-up weights, beside what bench/run.sh
measured:

    python3 -m venv venv
    CMAKE_ARGS=-DGGML_NATIVE=ON venv/bin/pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36 gguf==0.19.0
    venv/bin/python bench/peer.py OUTPUT.json

Each model is written to a temporary directory, at most 14.5 GB at a time, and measured mapped and copied to memory,
with flash attention and without: the fastest counts. llama.cpp knows no window of this architecture: at position
30 000 it attends to all before it. Decoding is as fast as memory is read, and where others share the memory that
changes within seconds: its bandwidth is probed between steps, as bench/run.sh does, and the last ratio is the one for
equal bandwidth. Takes about a quarter of an hour on two cores.
"""
import argparse
import concurrent.futures
import ctypes
import math
import mmap
import os
import pathlib
import signal
import struct
import sys
import tempfile
import time
import typing

import gguf
import llama_cpp
import numpy as np

import rows as bench_rows

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 4096, 14336, 32, 8, 128, 32000
PROMPT = 512
DEEP = 30000  # a position far in a long text

# A format of GGUF, and the rows of this library to set beside it.
FORMATS = {
    "BF16": {
        "prefill": ["model/bfloat16/prefill/tokens:512"],
        "decode": ["model/bfloat16/decode/position:0/window:4096"],
    },
    "Q8_0": {
        "prefill": ["model/q8/prefill/tokens:512/fast", "model/q8/prefill/tokens:512/balanced"],
        "decode": ["model/q8/decode/position:0/window:4096"],
    },
    "Q4_0": {
        "prefill": ["model/q4/prefill/tokens:512/fast", "model/q4/prefill/tokens:512/balanced"],
        "decode": ["model/q4/decode/position:0/window:4096"],
        "deep": [f"model/q4/decode/position:{DEEP}/window:4096", f"model/q4/decode/position:{DEEP}/window:0"],
    },
}
FIGURES = {"prefill": f"prompt of {PROMPT}", "decode": "decode near position 0", "deep": f"decode at position {DEEP}"}


def tensors(layers):
    """Names and shapes, [outputs, inputs]."""
    yield "token_embd.weight", (VOCAB, HIDDEN)
    for layer in range(layers):
        prefix = f"blk.{layer}."
        yield prefix + "attn_norm.weight", (HIDDEN,)
        yield prefix + "attn_q.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "attn_k.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "attn_v.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "attn_output.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield prefix + "ffn_norm.weight", (HIDDEN,)
        yield prefix + "ffn_gate.weight", (INNER, HIDDEN)
        yield prefix + "ffn_up.weight", (INNER, HIDDEN)
        yield prefix + "ffn_down.weight", (HIDDEN, INNER)
    yield "output_norm.weight", (HIDDEN,)
    yield "output.weight", (VOCAB, HIDDEN)


def random_blocks(format_name, count=1 << 20):
    """Blocks [count, bytes] of the format whose weights have a deviation of about 0.02."""
    random = np.random.default_rng(0)
    if format_name == "BF16":
        weights = 0.02 * random.standard_normal(count, dtype=np.float32)
        return (weights.view("<u4") >> 16).astype("<u2").view(np.uint8).reshape(count, 2)
    codes, deviation = {"Q8_0": (32, 74), "Q4_0": (16, 4.6)}[format_name]
    blocks = random.integers(0, 256, (count, 2 + codes), dtype=np.uint8)
    blocks[:, :2] = np.array([0.02 / deviation], dtype="<f2").view(np.uint8)  # the scale stands first
    return blocks


def write_model(path, format_name, layers):
    quantization = gguf.GGMLQuantizationType[format_name]
    weights_per_block, block_bytes = gguf.GGML_QUANT_SIZES[quantization]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32768)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("no_vocab")
    blocks = random_blocks(format_name)
    sizes = []
    for name, shape in tensors(layers):
        if len(shape) == 1:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
            sizes.append(None)
        else:
            size = shape[0] * shape[1] // weights_per_block
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size * block_bytes, quantization)
            sizes.append(size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for i, size in enumerate(sizes):
        if size is None:
            writer.write_tensor_data(np.ones(HIDDEN, dtype=np.float32))
        else:
            start = 1_000_003 * i % len(blocks)
            writer.write_tensor_data(np.resize(np.roll(blocks, -start, axis=0), (size, block_bytes)))
    writer.close()


@llama_cpp.llama_log_callback
def silent(level, text, user_data):
    pass


class Figure(typing.NamedTuple):
    """Tokens per second, and the bytes per second that memory gave meanwhile where that is what bounds them."""

    rate: float
    bandwidth: float | None

    def merit(self):
        return self.rate / (self.bandwidth or 1)


class ReadProbe:
    """Reads memory with so many threads, by the standard library's search for a byte that is not there."""

    def __init__(self, threads):
        self.search = ctypes.CDLL(None).memchr
        self.search.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        self.pool = concurrent.futures.ThreadPoolExecutor(threads)
        self.parts = [self.huge_pages((256 << 20) // threads) for _ in range(threads)]
        self.sample()  # starts the threads

    @staticmethod
    def huge_pages(size):
        """Memory whose addresses take few translations, as in bench/run.sh: with small pages half the speed is lost."""
        memory = mmap.mmap(-1, size)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        part = np.frombuffer(memory, dtype=np.uint8)
        part[:] = 7
        return part

    def sample(self):
        """Bytes per second of one pass. llama.cpp's threads look for more work for some milliseconds after their last,
        and would take the cores' time: it begins once they sleep."""
        time.sleep(0.02)
        start = time.perf_counter()
        list(self.pool.map(lambda part: self.search(part.ctypes.data, 1, len(part)), self.parts))
        return sum(map(len, self.parts)) / (time.perf_counter() - start)


class Context:
    """A sequence on a model that llama.cpp has loaded."""

    def __init__(self, model, threads, flash_attention, positions, probe):
        self.probe = probe
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = positions
        parameters.n_batch = parameters.n_ubatch = PROMPT
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.flash_attn_type = int(flash_attention)
        self.context = llama_cpp.llama_init_from_model(model, parameters)
        if not self.context:
            raise RuntimeError("llama.cpp could not make a context")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        llama_cpp.llama_free(self.context)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def compute(self, count):
        tokens = (llama_cpp.llama_token * count)(*(i * 7919 % VOCAB for i in range(count)))
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, count)) != 0:
            raise RuntimeError("llama.cpp could not compute")
        llama_cpp.llama_get_logits(self.context)  # waits for them

    def decode(self, steps=11):
        """Tokens per second, one by one from where the sequence is, and the bandwidth meanwhile: of the step that is
        the median by the ratio of the two, each held against the mean of the bandwidth before it and after."""
        self.compute(1)  # not timed
        figures = []
        before = self.probe.sample()
        for _ in range(steps):
            start = time.perf_counter()
            self.compute(1)
            rate = 1 / (time.perf_counter() - start)
            after = self.probe.sample()
            figures.append(Figure(rate, (before + after) / 2))
            before = after
        return sorted(figures, key=Figure.merit)[steps // 2]

    def prefill(self):
        """Tokens per second of a prompt."""
        self.clear()
        start = time.perf_counter()
        self.compute(PROMPT)
        return Figure(PROMPT / (time.perf_counter() - start), None)

    def repeat(self, positions):
        """Makes the sequence so long by its own keys and values over and over: to compute them would take half an
        hour."""
        size = llama_cpp.llama_state_seq_get_size(self.context, 0)
        state = np.empty(size, dtype=np.uint8)
        llama_cpp.llama_state_seq_get_data(self.context, pointer(state), size, 0)
        longer = repeat_state(state, positions)
        if llama_cpp.llama_state_seq_set_data(self.context, pointer(longer), len(longer), 0) != len(longer):
            raise RuntimeError("llama.cpp did not take the longer state: its format must have changed")


def pointer(array):
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def repeat_state(state, positions):
    """The saved state of a sequence with its cells repeated to so many positions. llama.cpp writes a magic number, the
    sequence, 1 stream, the number of cells; for each cell its position, 1 and the sequence; whether values are
    transposed, the number of layers; for each layer the type of keys, the size of a cell, and the cells; then for each
    the same of values, or where they are transposed the type, the size of an element, the number of rows, and the rows.
    """
    magic, sequence, _, cells = struct.unpack_from("<4I", state)
    at = 16 + 12 * cells
    transposed, layers = struct.unpack_from("<2I", state, at)
    at += 8
    longer = np.empty((len(state) // cells + 1) * positions, dtype=np.uint8)  # a little too long, as not all repeats
    end = 0

    def append(piece):
        nonlocal end
        longer[end : end + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        end += len(piece)

    order = np.arange(positions) % cells
    append(struct.pack("<4I", magic, sequence, 1, positions))
    append(b"".join(struct.pack("<iIi", position, 1, sequence) for position in range(positions)))
    append(struct.pack("<2I", transposed, layers))
    for part in range(2 * layers):
        append(state[at : at + 12])
        if transposed and part >= layers:
            _, element, rows = struct.unpack_from("<iII", state, at)
            shape, axis = (rows, cells, element), 1
        else:
            _, row = struct.unpack_from("<iQ", state, at)
            shape, axis = (cells, row), 0
        at += 12
        size = int(np.prod(shape))
        append(np.take(state[at : at + size].reshape(shape), order, axis=axis).reshape(-1))
        at += size
    return longer[:end]


def measure(path, format_name, threads):
    """For each figure the best one, and how llama.cpp was set up then."""
    best = {}
    deep = "deep" in FORMATS[format_name]
    probe = ReadProbe(threads)
    for mapped in (True, False):
        parameters = llama_cpp.llama_model_default_params()
        parameters.use_mmap = mapped
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        for flash_attention in (True, False):
            with Context(model, threads, flash_attention, 32768 if deep else 1024, probe) as context:
                figures = {"decode": context.decode(), "prefill": context.prefill()}
                if deep:
                    context.repeat(DEEP)
                    figures["deep"] = context.decode()
            setup = f"{'mapped' if mapped else 'copied'}, flash attention {'on' if flash_attention else 'off'}"
            print(f"{format_name}, {setup}: {', '.join(f'{k} {v.rate:.2f}' for k, v in figures.items())}",
                  file=sys.stderr)
            for name, figure in figures.items():
                if name not in best or figure.merit() > best[name][0].merit():
                    best[name] = (figure, setup)
        llama_cpp.llama_model_free(model)
    return best


def table_row(title, peer, row, setup, name):
    ours = row.get("tokens/s", math.nan)
    cells = [title, f"{peer.rate:.2f}", f"{ours:.2f}", f"{ours / peer.rate:.2f}"]
    if peer.bandwidth is None:
        cells += ["", "", cells[-1]]
    else:
        theirs, beside_ours = peer.bandwidth / 1e9, row.get("read_GB/s", math.nan)
        cells += [f"{theirs:.1f}", f"{beside_ours:.1f}", f"{ours / beside_ours / (peer.rate / theirs):.2f}"]
    return "| " + " | ".join([*cells, setup, f"`{name}`"]) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path, help="what bench/run.sh wrote")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--layers", type=int, default=32, help="fewer to try the script, ratios mean nothing then")
    arguments = parser.parse_args()
    rows, context = bench_rows.read(arguments.output)
    if int(context["threads"]) != arguments.threads:
        parser.error(f"{arguments.output} is of {context['threads']} threads, this would be of {arguments.threads}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that no model is left on the disk
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    columns = ["", "llama.cpp, tokens/s", "mistral, tokens/s", "ratio", "GB/s beside llama.cpp", "GB/s beside mistral",
               "ratio at equal bandwidth", "llama.cpp's set-up", "mistral's row"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for format_name in arguments.formats:
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "model.gguf"
            write_model(path, format_name, arguments.layers)
            figures = measure(path, format_name, arguments.threads)
        for figure, names in FORMATS[format_name].items():
            peer, setup = figures[figure]
            for name in names:
                title = f"{format_name}, {FIGURES[figure]}"
                print(table_row(title, peer, rows.get(name, {}), setup, name), flush=True)


if __name__ == "__main__":
    main()
