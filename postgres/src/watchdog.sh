# Runs one program of PostgreSQL ("$@") for as long as standard input stays open, and stops it when that closes: the other end is held
# by the owner alone, so it closes however the owner ends. Orders come in on the same pipe, one word a line.
# $1: seconds that a fast shutdown may take. $2: the program's standard input.
grace=$1 input=$2
shift 2
# A service manager that signals everything of ours at once must not take the watchdog away; the server has handlers of its own.
trap '' HUP INT TERM
exec 3<&0 </dev/null
"$@" <"$input" >&2 3<&- &
server=$!
(
    exec >/dev/null 2>&1
    while read -r order <&3; do
        case $order in
        fast) kill -INT "$server" ;;
        immediate) kill -QUIT "$server" ;;
        esac
    done
    # Again each second: a program that has only just started does not hear the first.
    while [ "$grace" -gt 0 ]; do
        kill -INT "$server" || exit
        sleep 1
        grace=$((grace - 1))
    done
    kill -QUIT "$server"
) &
reader=$!
exec 3<&-
printf '%s\n' "$server"
exec >/dev/null
wait "$server"
status=$?
kill -KILL "$reader" 2>/dev/null
exit "$status"
