#!/usr/bin/env python3
"""Makes challenge.ptx from challenge.cu, and assembles it for real GPUs to see that it is valid.

    python3 -m pip download --no-deps nvidia-cuda-nvrtc-cu11==11.8.89 nvidia-cuda-nvcc-cu12==12.9.86   # and unpack the wheels
    python3 make.py --nvrtc PATH/libnvrtc.so.11.2 --ptxas PATH/bin/ptxas [--check]

NVRTC of CUDA 11.8 writes PTX 7.8, which every driver from 520 on takes; a newer one would shut out older drivers. The target
compute_70 runs on Volta and everything later. With --check nothing is written, and a difference is an error.
"""
import argparse, ctypes, hashlib, pathlib, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).parent
TARGET = "compute_70"
ASSEMBLED_FOR = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100"]


def compiled(nvrtc_path, source):
    nvrtc = ctypes.CDLL(nvrtc_path)
    program = ctypes.c_void_p()

    def call(name, *arguments):
        code = getattr(nvrtc, name)(*arguments)
        if code:
            size = ctypes.c_size_t()
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            sys.exit(f"{name} failed with {code}:\n{log.value.decode()}")

    call("nvrtcCreateProgram", ctypes.byref(program), source, b"challenge.cu", 0, None, None)
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture={TARGET}".encode())
    call("nvrtcCompileProgram", program, 1, options)
    size = ctypes.c_size_t()
    call("nvrtcGetPTXSize", program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    call("nvrtcGetPTX", program, ptx)
    return ptx.value.decode()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nvrtc", required=True)
    parser.add_argument("--ptxas", required=True)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    source = (HERE / "challenge.cu").read_bytes()
    ptx = f"// Made by make.py from challenge.cu, sha256:{hashlib.sha256(source).hexdigest()}\n" + compiled(given.nvrtc, source)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        for gpu in ASSEMBLED_FOR:
            done = subprocess.run([given.ptxas, "-v", f"-arch={gpu}", file.name, "-o", "/dev/null"], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"ptxas for {gpu}: {done.stderr}")
            print(gpu, "; ".join(line.split(":", 1)[1].strip() for line in done.stderr.splitlines() if "registers" in line))
    file = HERE / "challenge.ptx"
    if given.check:
        if file.read_text() != ptx:
            sys.exit("challenge.ptx is not what challenge.cu makes: run without --check")
        print("challenge.ptx is what challenge.cu makes")
    else:
        file.write_text(ptx)


main()
