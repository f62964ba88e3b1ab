#!/usr/bin/env bash
# A run on four machines of a SLURM cluster: the first one is Ray's head and has the driver; a machine each GPU of which is a
# worker or a rank of the learner. Ends with a checkpoint when the time is nearly over, is queued again, and goes on.
#
#   source .venv/bin/activate; sbatch examples/cluster/slurm.sh examples/gsm8k.toml runs/gsm8k
#
#SBATCH --job-name=grpo-agents
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
config=${1:?the config} run=${2:?the run folder, where all machines see it}

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | awk 'NR == 1')
address=$(srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}'):6379
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port=6379 --block &
sleep 15
others=$((SLURM_JOB_NUM_NODES - 1))
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodes="$others" --ntasks="$others" --exclude="$head" ray start --address="$address" --block &
there="import ray; ray.init('$address', logging_level='ERROR'); print(sum(node['Alive'] for node in ray.nodes()))"
until [ "$(python -c "$there" || echo 0)" -ge "$SLURM_JOB_NUM_NODES" ]; do sleep 5; done

if [ -f "$run/config.toml" ]; then # begun, with or without a checkpoint
    what=(--resume "$run" --set "cluster.address=$address")
else
    what=("$config" --set "run=$run" --set cluster.kind=ray --set "cluster.address=$address"
        --set cluster.learner_ranks=8 --set cluster.workers=24 --set cluster.max_staleness=1
        --set method.tis=2.0 --set learner.old_logprobs=recompute --set engine.backend=vllm)
fi
again() { # the machines are taken away soon: a checkpoint first, by the driver, which is the last in the background
    kill -TERM $!
    wait $! || true
    scontrol requeue "$SLURM_JOB_ID"
}
trap again TERM # comes to this shell alone (B:), as Ray has to be there until all is saved
grpo-agents train "${what[@]}" &
wait $!
