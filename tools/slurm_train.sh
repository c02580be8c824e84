#!/usr/bin/env bash
# A training on one or more nodes of a Slurm cluster, one task for each GPU:
#   sbatch --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 --cpus-per-task 8 tools/slurm_train.sh configs/upernet_internvit.py --arch 6b-224px --data ade20k --strategy zero3
# Slurm's SIGTERM five minutes before the time limit, or at scancel, saves and ends the job with status 143; `--resume` continues it.
# Other interpreters: PYTHON=... sbatch ...
#SBATCH --job-name=mmdet_seg
#SBATCH --signal=TERM@300
set -euo pipefail
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
# srun does not take this over from sbatch since Slurm 22.05.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
# No torchrun in between: it would pass signals on once more and give a save 30 seconds.
# shellcheck disable=SC2016
exec srun --kill-on-bad-exit=1 bash -c '
  export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS
  export LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=${SLURM_TASKS_PER_NODE%%(*}
  exec "${PYTHON:-.venv/bin/python}" tools/train.py "$@"' train "$@"
