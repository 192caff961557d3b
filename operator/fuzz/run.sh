#!/bin/sh
# Builds the fuzz targets with the stable toolchain (no sanitizer, which safe code can do without) and runs each of them
# for SECONDS_EACH seconds on one core. With cargo-fuzz and a nightly toolchain, `cargo fuzz run TARGET` does the same.
set -eu
cd "$(dirname "$0")"
SECONDS_EACH=${SECONDS_EACH:-120}
coverage=-Cllvm-args=-sanitizer-coverage
flags="-Cpasses=sancov-module $coverage-level=4 $coverage-inline-8bit-counters $coverage-pc-table"
flags="$flags $coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="$flags" cargo build --release --target "$host" --bins
python3 seeds.py
for target in ${*:-envelope statement commons peer text challenge}; do
  mkdir -p "artifacts/$target"
  echo "== $target"
  "${CARGO_TARGET_DIR:-target}/$host/release/$target" "corpus/$target" -max_total_time="$SECONDS_EACH" -timeout=20 \
    -artifact_prefix="artifacts/$target/" -print_final_stats=1 -max_len=65536
done
