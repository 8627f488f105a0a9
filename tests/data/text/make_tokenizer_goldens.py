#!/usr/bin/env python3
"""Writes encode_hashes.json: what the sentencepiece library makes of many thousand generated lines.

    pip install sentencepiece
    tests/data/text/make_tokenizer_goldens.py

The lines come from a generator that tests/text/line_generator.hpp repeats, over the fragments of fragments.txt, so
that neither they nor their tokens need to be kept: per model and block of lines there is one 64-bit hash of all tokens
and one of all decoded texts, and, for a failure's sake, one of the lines themselves. A second set of hashes is of texts
decoded from random tokens.
"""

import argparse
import json
import pathlib
import re

import sentencepiece

HERE = pathlib.Path(__file__).resolve().parent
MASK = 2**64 - 1

# First code point and number of code points of what random lines are made of.
RANGES = [
    (0x20, 95), (0x00, 160), (0xA0, 96), (0x100, 384), (0x300, 112), (0x370, 144), (0x400, 256), (0x590, 112),
    (0x600, 256), (0x900, 128), (0xE00, 128), (0x1E00, 256), (0x2000, 112), (0x2190, 112), (0x2500, 160),
    (0x3040, 192), (0x4E00, 20992), (0xAC00, 11172), (0xFF00, 240), (0x1F300, 768), (0x20000, 256), (0xE000, 8192),
    (0x10000, 65536),
]
JOINTS = [b"", b" ", b" ", b" ", b"  ", b"\n"]


class Generator:
    """The random numbers of splitmix64 (Steele et al., 2014), and lines made from them."""

    def __init__(self, seed, fragments):
        self.state = seed
        self.fragments = fragments

    def below(self, limit):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        mixed = self.state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        return ((mixed ^ (mixed >> 31)) >> 32) % limit

    def fragment(self):
        return self.fragments[self.below(len(self.fragments))]

    def line(self):
        kind = self.below(8)
        if kind < 3:
            return self.sentence(1 + self.below(24))
        if kind == 3:
            return b"".join(self.fragment() for _ in range(1 + self.below(12)))
        if kind == 4:
            return self.characters(1 + self.below(40))
        if kind == 5:
            return self.bytes(1 + self.below(40))
        if kind == 6:
            return self.runs(1 + self.below(6))
        return bytes(0x20 + self.below(95) for _ in range(1 + self.below(80)))

    def sentence(self, fragments):
        line = self.fragment()
        for _ in range(fragments):
            line += JOINTS[self.below(len(JOINTS))]
            line += self.fragment()
        return line

    def characters(self, count):
        line = b""
        start, size = RANGES[self.below(len(RANGES))]
        for _ in range(count):
            if self.below(8) == 0:
                start, size = RANGES[self.below(len(RANGES))]
            line += chr(start + self.below(size)).encode()
        return line

    def bytes(self, count):
        line = b""
        for _ in range(count):
            line += bytes([self.below(256) if self.below(3) == 0 else 0x20 + self.below(95)])
        return line

    def runs(self, count):
        line = b""
        for _ in range(count):
            line += b" " * self.below(100) if self.below(2) == 0 else self.fragment() * self.below(20)
            line += self.fragment()
        return line

    def tokens(self, bytes_of_model, vocabulary):
        """Tokens as a sequence of them might come from a model: mostly any, with bytes and the unknown piece."""
        tokens = []
        for _ in range(1 + self.below(30)):
            kind = self.below(4)
            if kind == 0:
                tokens.append(bytes_of_model + self.below(256))
            elif kind == 1:
                tokens.append(self.below(3))
            else:
                tokens.append(self.below(vocabulary))
        return tokens


class Hash:
    """FNV-1a with 64 bits."""

    def __init__(self):
        self.value = 0xCBF29CE484222325

    def add(self, data):
        for byte in data:
            self.value = ((self.value ^ byte) * 0x100000001B3) & MASK

    def add_tokens(self, tokens):
        """The tokens, and their number as an end."""
        for token in [*tokens, len(tokens)]:
            self.add(token.to_bytes(4, "little"))

    def add_text(self, text):
        """The bytes, and a byte that no text holds as an end."""
        self.add(text + b"\xff")

    def hex(self):
        return f"{self.value:016x}"


def read_fragments(path):
    """One fragment per line, in which \\xNN is a byte and \\\\ a backslash."""
    lines = path.read_bytes().split(b"\n")[:-1]
    unescape = lambda match: b"\\" if match[0] == b"\\\\" else bytes([int(match[0][2:], 16)])
    return [re.sub(rb"\\\\|\\x[0-9A-F]{2}", unescape, line) for line in lines]


def hash_lines(lines, per_block, add):
    """The hashes of what `add` makes of each line, for each block of lines."""
    hashes = []
    for start in range(0, len(lines), per_block):
        block = Hash()
        for line in lines[start : start + per_block]:
            add(block, line)
        hashes.append(block.hex())
    return hashes


def hash_model(path, lines, args):
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    first_byte = model.piece_to_id("<0x00>")
    generator = Generator(args.seed + 1, [])
    sequences = [generator.tokens(first_byte, model.vocab_size()) for _ in range(args.lines // 4)]
    encoded = [model.encode(line) for line in lines]
    add_decoded = lambda block, tokens: block.add_text(model.decode(tokens).encode())
    return {
        "encoded": hash_lines(encoded, args.lines_per_block, Hash.add_tokens),
        "decoded": hash_lines(encoded, args.lines_per_block, add_decoded),
        "random_decoded": hash_lines(sequences, args.lines_per_block, add_decoded),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=12000)
    parser.add_argument("--lines-per-block", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20240216)
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "encode_hashes.json")
    args = parser.parse_args()

    models = {
        "v1": HERE / "tokenizers/tokenizer.model.v1",
        "v2": HERE / "tokenizers/mistral_instruct_tokenizer_240216.model.v2",
        "v3": HERE / "tokenizers/mistral_instruct_tokenizer_240323.model.v3",
        "shakespeare": HERE.parents[2] / "examples/models/shakespeare/tokenizer.model",
    }
    generator = Generator(args.seed, read_fragments(HERE / "fragments.txt"))
    lines = [generator.line() for _ in range(args.lines)]
    goldens = {
        "sentencepiece": sentencepiece.__version__,
        "seed": args.seed,
        "lines": args.lines,
        "lines_per_block": args.lines_per_block,
        "line_hashes": hash_lines(lines, args.lines_per_block, Hash.add_text),
        "models": {name: hash_model(path, lines, args) for name, path in models.items()},
    }
    args.output.write_text(json.dumps(goldens, indent=1) + "\n")


if __name__ == "__main__":
    main()
