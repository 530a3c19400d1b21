#!/bin/sh
# A batch job that measures its node first and then runs the scans that it was given: `06_bench_in_a_batch.sh FILE..`
#SBATCH --cpus-per-task=8 --mem=20G --time=02:00:00
# Rates are kept for each machine (in $XDG_CACHE_HOME or ~/.cache), and predictions on it are made with them. On a
# cluster whose nodes share a home, give each kind of node a folder of its own.
set -eu
STEMSTREAM=${STEMSTREAM:-stemstream}
SCRATCH=${SCRATCH:-${TMPDIR:-/tmp}}
BENCH=${BENCH:---quick}
export XDG_CACHE_HOME="${XDG_CACHE_HOME:-$HOME/.cache/$(uname -n)}"

# One object: rates of this machine, every graph's blocks, and how near the run came to what the machine can do.
"$STEMSTREAM" -q bench $BENCH --json --folder "$SCRATCH" > bench.json
for scan in "$@"; do
    # A cache per scan on the fast disk; a run that was stopped goes on where it was. Codes are in the README.
    "$STEMSTREAM" -q run "$scan" --lean --out "$SCRATCH/results" --json >> results.json || echo "$scan: exit code $?" >&2
done
