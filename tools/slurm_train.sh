#!/usr/bin/env bash
# A training on one or more nodes of a Slurm cluster, one torchrun per node:
#   sbatch --nodes 2 --gpus-per-node 8 tools/slurm_train.sh configs/upernet_internvit.py --arch 6b-224px --data ade20k --strategy zero3
# Slurm's SIGTERM before the time limit saves and ends the run with status 143; `--resume` continues it.
#SBATCH --job-name=mmdet_seg
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --signal=TERM@300
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m torch.distributed.run \
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv_backend c10d --rdzv_endpoint "$head:${PORT:-29500}" --rdzv_id "$SLURM_JOB_ID" \
  tools/train.py "$@"
