# shellcheck shell=bash disable=SC2034 # some variables are for the scripts
# What all batch scripts here share: first what differs from site to site, for you to edit; then how ranks are started and
# what is done when they end. Scripts source it from the folder in which sbatch was called; REALM_SITE names another one.

# ---- Your site ----
# What a job needs before Python, such as: set +u; module purge; module load cuda/12.6 openmpi/5.0; set -u
# (scripts end at a variable that is not set, and modules read some that are not).
#
# The virtual environment with realm-ds: a folder with bin/activate. Empty: the Python that is on PATH by now.
REALM_VENV=${REALM_VENV:-.venv}
# Of `srun --mpi=list`; auto: what the MPI library needs that mpi4py finds.
MPI_PLUGIN=${MPI_PLUGIN:-auto}
# The network between nodes, where the libraries choose a wrong one, such as:
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
#
# A job is queued again this often without having got any further, then it is given up; any: however often.
MAX_IDLE_RESTARTS=${MAX_IDLE_RESTARTS:-3}

# ---- What scripts use ----
# SRUN and RANK are how all ranks of a job are started: "${SRUN[@]}" "${RANK[@]}" pretrain ...
# -K1: a rank that dies ends the others. -m mpi4py: so does one that raises.
SRUN=(srun -K1)
RANK=(python -m mpi4py -m realm_ds)

# realm_begin FOLDER: to call first. FOLDER is where the job is kept track of: a run folder, mostly. Sets RUN to it as a
# whole path and settings to the words of SETTINGS; completes SRUN.
realm_begin() {
    local log
    # Of an array one task: SLURM_JOB_ID alone is to Slurm all of them, where it equals SLURM_ARRAY_JOB_ID.
    realm_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    realm_job=${realm_job:-$SLURM_JOB_ID}
    RUN=$(realpath -m -- "$1")
    mkdir -p -- "$RUN/job"
    read -ra settings <<<"${SETTINGS:-}"
    realm_nodes=$SLURM_JOB_NODELIST${SLURM_JOB_NODELIST_HET_GROUP_1:+,$SLURM_JOB_NODELIST_HET_GROUP_1}
    realm_asked="" realm_heard=""
    trap realm_pass_on USR1 TERM
    echo "realm: job $realm_job, start $((${SLURM_RESTART_COUNT:-0} + 1)), at $(date -Iseconds), on $realm_nodes, in $RUN"
    log=$(readlink "/proc/$$/fd/1")
    if [[ -f $log && $log != "$RUN"/job/* ]]; then # realm-ds why looks for it there
        ln -sfn -- "$log" "$RUN/job/$SLURM_JOB_ID.log"
    fi
    if [ -e "$REALM_VENV/bin/activate" ]; then
        # shellcheck disable=SC1091 # it is of another machine
        source "$REALM_VENV/bin/activate"
    elif [ -n "$REALM_VENV" ]; then
        echo "realm: there is no virtual environment in REALM_VENV=$REALM_VENV; Python is $(command -v python || true)"
    fi
    command -v python >/dev/null || realm_fail 1 "there is no python: no virtual environment in REALM_VENV=$REALM_VENV, \
and none on PATH. Mend $REALM_SITE, or call sbatch in the folder that REALM_VENV starts from"
    [ "$MAX_IDLE_RESTARTS" = any ] || realm_refuse_to_go_in_circles
    export SLURM_EXPORT_ENV=ALL # else ranks of a job submitted with --export=NONE or --export=NAMES lack what is set here
    if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then # since Slurm 22.05 srun does not take it from the job
        export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
    fi
    realm_choose_mpi
}

# realm_run COMMAND...: runs it to its end. What ended because it was asked to, or because a node went, is queued again
# and goes on; what failed ends the job, with the reason at the end of the log and at the top of RUN/why.txt.
realm_run() {
    local code command lost
    [ -z "$realm_asked" ] || realm_requeue "asked to end"
    "$@" </dev/null & # a step would else read the rest of the script
    command=$!
    while :; do
        code=0 realm_heard=""
        wait "$command" || code=$?
        [ -n "$realm_heard" ] || break # else it was the signal that ended the waiting
    done
    if [ "$code" = 0 ]; then
        return
    fi
    # 75 is the code of ranks that have kept what they did; what does not listen, or not yet, dies of the signal.
    if [ "$code" = 75 ] || { [ -n "$realm_asked" ] && [ "$code" -gt 128 ]; }; then
        realm_requeue "asked to end"
    fi
    lost=$(realm_lost_nodes) || lost="" # Slurm does not say: then it is told what the ranks say
    [ -z "$lost" ] || realm_requeue "no answer from $lost"
    # Slurm may be ending the job, for such a node too, and with the job what was just asked of it.
    ! realm_look_at_job || [ "$realm_state" != ending ] || realm_requeue "the ranks have ended with code $code"
    realm_fail "$code"
}

# ---- Below ----

realm_pass_on() {
    local realm_state realm_answer # what it interrupts may be looking at its own
    realm_asked=1 realm_heard=1
    realm_look_at_job || true
    if [ "$realm_state" != ending ]; then # else Slurm ends it, and has told the ranks
        echo "realm: asked to end; telling the ranks"
        realm_ask scancel --signal=USR1 "$realm_job" || # the job's steps, not this script
            echo "realm: they cannot be told: $realm_answer"
    fi
}

realm_requeue() { # REASON
    local said
    realm_look_at_job || realm_fail 75 "$1, but Slurm does not say whether job $realm_job still runs, so it is not \
queued again: $realm_answer. Submit it again: it goes on from what it has kept"
    if [ "$realm_state" = running ]; then
        echo "realm: $1; queueing job $realm_job again"
        realm_ask scontrol requeue "$realm_job" || {
            said=$realm_answer
            realm_look_at_job && [ "$realm_state" = ending ] # it was queued, only the answer came too late
        } || realm_fail 75 "$1, but Slurm does not queue job $realm_job again: $said. Submit it again: it goes on from \
what it has kept"
    else # cancelled, or queued again by Slurm itself: to queue it now would undo a scancel
        echo "realm: $1; Slurm is ending job $realm_job and decides whether it runs again"
    fi
    exit 75
}

# Sets realm_state: running, ending or, where Slurm does not say, unknown.
realm_look_at_job() {
    realm_state=unknown
    realm_ask squeue --noheader --jobs="$realm_job" --format=%T || return
    grep -qx RUNNING <<<"$realm_answer" && realm_state=running || realm_state=ending
}

# realm_ask COMMAND...: one of Slurm's, three times if it must be, since its controller may be busy. Sets realm_answer to
# what it says.
realm_ask() {
    local left code
    for left in 2 1 0; do
        code=0
        realm_answer=$(timeout 10 "$@" 2>&1) || code=$?
        [ "$code" != 0 ] || return 0
        [ "$left" = 0 ] || sleep 5
    done
    realm_answer=${realm_answer:-$1 ended with code $code} # 124: not within its time
    return 1
}

realm_fail() { # CODE [REASON]
    local reason=${2:-}
    [ -n "$reason" ] || reason=$(python -m realm_ds why "$RUN" --code "$1" 2>&1) || [ $? = 1 ] ||
        reason="look at the log above" # there is no run in the folder
    reason="job $realm_job failed with exit code $1 on $realm_nodes, $(date '+%F %T'):"$'\n'"$reason"
    {
        printf '%s\n\n' "$reason"
        cat -- "$RUN/why.txt" 2>/dev/null || true
    } >"$RUN/why.txt.new"
    mv -- "$RUN/why.txt.new" "$RUN/why.txt"
    printf '\nrealm: %s\n' "$reason"
    exit "$1"
}

# A job that Slurm starts again and again, and that gets no further, has a fault of its own. How far it is can be seen in
# the names of what it has finished: checkpoints, parts of an index.
realm_refuse_to_go_in_circles() {
    local far before="" idle=0
    far=$(find "$RUN" -maxdepth 3 \( -name 'step-*' -o -name 'part-*' \) | sort | cksum | tr ' ' -)
    if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && read -r idle before <"$RUN/restarts"; then
        [ "$far" = "$before" ] && idle=$((idle + 1)) || idle=0
    fi
    echo "$idle $far" >"$RUN/restarts"
    [ "$idle" -le "$MAX_IDLE_RESTARTS" ] || realm_fail 1 "queued again $idle times without getting any further \
(MAX_IDLE_RESTARTS=$MAX_IDLE_RESTARTS): look at the log of each start above and in $RUN/logs, then submit it anew"
}

realm_choose_mpi() {
    local library plugin=$MPI_PLUGIN offered
    if [ "$plugin" = auto ]; then
        library=$(python -c "
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version())") || realm_fail 1 "mpi4py can load no MPI library: pip install mpich, or load the \
module of this site's MPI in $REALM_SITE"
        case $library in
        *"Open MPI"*) plugin=pmix ;;
        *CRAY*) plugin=cray_shasta ;;
        *MPICH* | *Intel* | *MVAPICH*) plugin=pmi2 ;;
        *) realm_fail 1 "which --mpi of srun goes with ${library%%$'\n'*}? Set MPI_PLUGIN in $REALM_SITE" ;;
        esac
    fi
    offered=$(srun --mpi=list 2>&1 | tail -n +2 | xargs) || true
    grep -qw -- "$plugin" <<<"$offered" || realm_fail 1 "this Slurm has no --mpi=$plugin, but: $offered. Set MPI_PLUGIN \
in $REALM_SITE, or use an MPI library that goes with one of these"
    SRUN+=("--mpi=$plugin")
}

# Nodes of the job that Slurm does not reach, by name. It knows by now: it has tried to end what ran there.
realm_lost_nodes() {
    realm_ask sinfo --noheader --Node --nodes="$realm_nodes" --format="%N %T" || return
    awk '$2 ~ /[*]|down|fail/ {print $1}' <<<"$realm_answer" | sort -u | xargs
}
