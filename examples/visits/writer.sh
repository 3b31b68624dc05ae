#!/bin/bash
# Stores the visits that are queued in Redis in PostgreSQL; one leaves the queue when it is stored.
# It ends when either is away, and is started again.
set -euo pipefail
PGPASSWORD=$(< /run/secrets/postgres_password)
export PGPASSWORD PGCONNECT_TIMEOUT=5

exec 3<> /dev/tcp/redis/6379
line() { IFS= read -r answer <&3 || exit 1; answer=${answer%$'\r'}; }
ask() { # a command whose answer is a text: its length comes first, then the text
    printf '%s\r\n' "$1" >&3
    line
    [[ $answer == '$'* ]] || { echo "redis: $answer" >&2; exit 1; }
    line
}

while ask 'BLMOVE visits visits LEFT LEFT 0'; do # waits for one, and leaves it where it is
    psql -qv ON_ERROR_STOP=1 -v "path=$answer" <<< "insert into visits (path) values (:'path')"
    ask 'LPOP visits'
done
