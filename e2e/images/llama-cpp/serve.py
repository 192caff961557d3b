#!/usr/bin/env python3
"""Serves one GGUF model with llama.cpp over the OpenAI API, until it is asked to end."""

import argparse
import os
import signal
import sys

import xllamacpp


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="path of the GGUF file")
    parser.add_argument("--served-name", required=True, help="name under which the API offers the model")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--ctx", type=int, default=2048, help="tokens of context for each request")
    parser.add_argument("--parallel", type=int, default=1, help="requests served at the same time")
    # The pod's own processors and not the machine's.
    processors = max(1, min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--threads", type=int, default=processors, help="threads that compute")
    arguments = parser.parse_args()
    for name in ("ctx", "parallel", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return arguments


def main():
    arguments = parse()
    # The library says only that loading failed, so the plain reasons are told apart here.
    try:
        with open(arguments.model, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        sys.exit(f"cannot read the model: {error}")
    if magic != b"GGUF":
        sys.exit(f"{arguments.model} is not a GGUF file: it begins with {magic!r}")

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.served_name}
    # llama.cpp divides the context among the parallel requests; each of them is promised all of it.
    params.n_ctx = arguments.ctx * arguments.parallel
    params.n_parallel = arguments.parallel
    params.kv_unified = False
    params.hostnames = [arguments.host]
    params.port = arguments.port
    params.ui = False
    params.endpoint_metrics = True
    params.cpuparams.n_threads = arguments.threads

    ended = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ended)
    server = xllamacpp.Server(params)
    print(f"serving {arguments.served_name} at {server.listening_address}", flush=True)
    signal.sigwait(ended)
    # The server's own threads would hold up an ordinary end.
    os._exit(0)


if __name__ == "__main__":
    main()
