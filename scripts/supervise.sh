#!/bin/bash
# Keeps one background process running where there is no systemd, and stops it on SIGTERM.
#
#   supervise.sh NAME RUN-FOLDER LOG CMD...
#
# Between starts it waits 1, 2, 4, 8 s; after a process that lived for a minute, 1 s again.
# Exit status 2 means that the same start would fail again, so it gives up.
set -uo pipefail
name=$1 run=$2 log=$3; shift 3
LOG_MAX_BYTES=$((10 << 20))     # then the log becomes $log.1

exec {lock}>"$run/$name.lock"
flock --nonblock "$lock" || exit 0          # another one has it
echo $$ > "$run/$name.pid"
exec >> "$log" 2>&1
export SLIM_SUPERVISED=1        # a driver that cannot start answers calls with the reason meanwhile
say() { printf '%(%FT%T%z)T supervisor: %s\n' -1 "$*"; }

stopping= child=
trap 'stopping=1; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null' TERM INT
trap 'rm -f "$run/$name.pid"' EXIT

pause_s=1
while [[ -z $stopping ]]; do
    if (( $(stat -c %s "$log") > LOG_MAX_BYTES )); then mv "$log" "$log.1"; exec >> "$log" 2>&1; fi
    say "starting $*"
    started_s=$SECONDS
    # If the supervisor is killed, the child must end too: nobody would restart it.
    setpriv --pdeathsig TERM "$@" {lock}>&- &
    child=$!
    status=0
    # A signal ends `wait` early; only kill -0 tells whether the child is gone.
    while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
    child=
    [[ -z $stopping ]] || { say "stopped"; break; }
    if ((status == 2)); then say "ended with status 2: giving up"; exit 2; fi
    ((SECONDS - started_s < 60)) || pause_s=1
    say "ended with status $status; again in $pause_s s"
    sleep "$pause_s" {lock}>&- & child=$!
    wait "$child"
    child=
    pause_s=$((pause_s * 2 > 8 ? 8 : pause_s * 2))
done
exit 0
