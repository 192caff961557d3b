#!/usr/bin/env python3
"""Writes a complete, very small language model as a GGUF file: llama architecture, two layers, a byte tokenizer.

Its weights are pseudo-random numbers from a fixed seed, so its words mean nothing, but a real engine loads and runs it
and the file has the same bytes, and therefore the same digest, wherever it is made. Only the standard library is used.

    tiny_llama.py OUT.gguf [--seed N]

Another seed gives another model of the same size, for tests that need two.
"""

import argparse
import random
import struct

LAYERS = 2
WIDTH = 64
HEADS = 4
FEED_FORWARD = 128
CONTEXT = 4096
# <unk>, <s>, </s>, then one token a byte.
SPECIAL = 3
VOCABULARY = SPECIAL + 256
EPSILON = 1e-5
# How strongly the last layer prefers a letter to any other byte; random weights alone would answer with control characters.
PREFERENCE = 6.0

UINT32, FLOAT32, BOOL, STRING, ARRAY, INT32 = 4, 6, 7, 8, 9, 5
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def field(key, kind, value):
    head = text(key) + struct.pack("<I", kind)
    if kind == STRING:
        return head + text(value)
    return head + struct.pack({UINT32: "<I", FLOAT32: "<f", BOOL: "<?"}[kind], value)


def array(key, kind, values):
    body = b"".join(text(v) if kind == STRING else struct.pack({FLOAT32: "<f", INT32: "<i"}[kind], v) for v in values)
    return text(key) + struct.pack("<IIQ", ARRAY, kind, len(values)) + body


def vocabulary():
    """Tokens, scores and kinds (2 unknown, 3 control, 6 byte) of the byte tokenizer."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [2, 3, 3] + [6] * 256
    return tokens, [0.0] * VOCABULARY, kinds


def metadata(name):
    tokens, scores, kinds = vocabulary()
    return [
        field("general.architecture", STRING, "llama"),
        field("general.name", STRING, name),
        field("general.license", STRING, "apache-2.0"),
        field("llama.context_length", UINT32, CONTEXT),
        field("llama.embedding_length", UINT32, WIDTH),
        field("llama.block_count", UINT32, LAYERS),
        field("llama.feed_forward_length", UINT32, FEED_FORWARD),
        field("llama.attention.head_count", UINT32, HEADS),
        field("llama.attention.head_count_kv", UINT32, HEADS),
        field("llama.attention.layer_norm_rms_epsilon", FLOAT32, EPSILON),
        field("llama.rope.dimension_count", UINT32, WIDTH // HEADS),
        field("llama.vocab_size", UINT32, VOCABULARY),
        field("tokenizer.ggml.model", STRING, "llama"),
        array("tokenizer.ggml.tokens", STRING, tokens),
        array("tokenizer.ggml.scores", FLOAT32, scores),
        array("tokenizer.ggml.token_type", INT32, kinds),
        field("tokenizer.ggml.unknown_token_id", UINT32, 0),
        field("tokenizer.ggml.bos_token_id", UINT32, 1),
        field("tokenizer.ggml.eos_token_id", UINT32, 2),
        field("tokenizer.ggml.add_bos_token", BOOL, True),
        field("tokenizer.ggml.add_space_prefix", BOOL, False),
        field("tokenizer.chat_template", STRING, CHAT_TEMPLATE),
    ]


def is_letter(token):
    byte = token - SPECIAL
    return byte == ord(" ") or ord("a") <= byte <= ord("z")


def tensors(source):
    """Every tensor as (name, dimensions with the fastest first, values).

    Column 0 of the hidden state is the same for every token and no layer writes to it, so its weight in the output is a
    bias: it prefers letters.
    """

    def matrix(columns, rows, scale, first_column=None, empty_first_row=False):
        values = []
        for row in range(rows):
            line = [(source.random() * 2 - 1) * scale for _ in range(columns)]
            if first_column is not None:
                line[0] = first_column(row)
            if empty_first_row and row == 0:
                line = [0.0] * columns
            values.extend(line)
        return (columns, rows), values

    def ones(size):
        return (size,), [1.0] * size

    yield "token_embd.weight", *matrix(WIDTH, VOCABULARY, 1.0, first_column=lambda _: 1.0)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", *ones(WIDTH)
        for part in ("q", "k", "v"):
            yield f"{block}.attn_{part}.weight", *matrix(WIDTH, WIDTH, 0.25)
        yield f"{block}.attn_output.weight", *matrix(WIDTH, WIDTH, 0.25, empty_first_row=True)
        yield f"{block}.ffn_norm.weight", *ones(WIDTH)
        yield f"{block}.ffn_gate.weight", *matrix(WIDTH, FEED_FORWARD, 0.25)
        yield f"{block}.ffn_up.weight", *matrix(WIDTH, FEED_FORWARD, 0.25)
        yield f"{block}.ffn_down.weight", *matrix(FEED_FORWARD, WIDTH, 0.25, empty_first_row=True)
    yield "output_norm.weight", *ones(WIDTH)
    bias = lambda token: PREFERENCE if is_letter(token) else -PREFERENCE
    yield "output.weight", *matrix(WIDTH, VOCABULARY, 0.5, first_column=bias)


def padding(size):
    return b"\0" * (-size % 32)


def model(seed):
    fields = metadata(f"koinon-tiny-{seed}")
    infos, data = [], b""
    for name, dimensions, values in tensors(random.Random(seed)):
        data += padding(len(data))
        info = text(name) + struct.pack("<I", len(dimensions)) + b"".join(struct.pack("<Q", d) for d in dimensions)
        # Kind 0: 32-bit floats.
        infos.append(info + struct.pack("<IQ", 0, len(data)))
        data += struct.pack(f"<{len(values)}f", *values)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(fields)) + b"".join(fields) + b"".join(infos)
    return head + padding(len(head)) + data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with open(arguments.out, "wb") as file:
        file.write(model(arguments.seed))


if __name__ == "__main__":
    main()
