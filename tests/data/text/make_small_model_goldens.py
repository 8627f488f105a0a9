#!/usr/bin/env python3
"""Writes small_model_goldens.json: random models of a few pieces, and what the sentencepiece library makes of texts.

    pip install sentencepiece protobuf
    tests/data/text/make_small_model_goldens.py

Few letters and few scores make for many ties, overlapping user-defined pieces and unused pieces that are taken apart
in more than one way, with each of the options that large models leave alone. A model is described by its pieces after
`<unk>`, `<s>` and `</s>`, and by its options; tests/text/byte_pair_encoder.cpp builds the same model from that and
generates the same texts.
"""

import argparse
import json
import pathlib

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from make_tokenizer_goldens import Generator, Hash

HERE = pathlib.Path(__file__).resolve().parent
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
ALPHABET = ["a", "b", "c", "\u2581", "é", " "]


def random_model(generator):
    """A description of a model."""
    options = {
        "byte_fallback": generator.below(2) == 1,
        "add_dummy_prefix": generator.below(4) != 0,
        "remove_extra_whitespaces": generator.below(3) == 0,
        "escape_whitespaces": generator.below(5) != 0,
    }
    kinds = [NORMAL, NORMAL, NORMAL, USER_DEFINED, UNUSED]
    if generator.below(2) == 1:
        kinds = [NORMAL, UNUSED]
    letters = 2 + generator.below(5)
    pieces = {}
    for _ in range(4 + generator.below(24)):
        kind = kinds[generator.below(len(kinds))]
        usable = min(letters, 5) if kind == USER_DEFINED else letters  # a blank in a user-defined piece is refused
        text = "".join(ALPHABET[generator.below(usable)] for _ in range(1 + generator.below(5)))
        pieces[text] = [-float(generator.below(4)), kind]
    return {"options": options, "pieces": [[text, *rest] for text, rest in pieces.items()]}


def random_text(generator):
    """Bytes, now and then one that is no UTF-8."""
    text = b""
    for _ in range(generator.below(40)):
        kind = generator.below(40)
        text += b"\xff" if kind == 0 else "日".encode() if kind == 1 else ALPHABET[kind % 6].encode()
    return text


def build(description):
    """The bytes of the model file."""
    model = sentencepiece_model_pb2.ModelProto()
    add = lambda text, score, kind: model.pieces.add(piece=text, score=score, type=kind)
    add("<unk>", 0, UNKNOWN)
    add("<s>", 0, CONTROL)
    add("</s>", 0, CONTROL)
    for text, score, kind in description["pieces"]:
        add(text, score, kind)
    options = description["options"]
    for value in range(256 if options["byte_fallback"] else 0):
        add(f"<0x{value:02X}>", 0, BYTE)
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = options["byte_fallback"]
    model.normalizer_spec.name = "identity"
    for name in ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
        setattr(model.normalizer_spec, name, options[name])
    return model.SerializeToString()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=150)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1508)
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "small_model_goldens.json")
    args = parser.parse_args()

    generator = Generator(args.seed, [])
    texts = Generator(args.seed + 1, [])
    goldens = []
    for _ in range(args.models):
        description = random_model(generator)
        model = sentencepiece.SentencePieceProcessor(model_proto=build(description))
        encoded, decoded = Hash(), Hash()
        for _ in range(args.texts):
            tokens = model.encode(random_text(texts))
            encoded.add_tokens(tokens)
            decoded.add_text(model.decode(tokens).encode())
        goldens.append({**description, "encoded": encoded.hex(), "decoded": decoded.hex()})
    lines = ",\n".join(json.dumps(golden, separators=(",", ":")) for golden in goldens)
    args.output.write_text(f'{{"seed": {args.seed + 1}, "texts": {args.texts}, "models": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
