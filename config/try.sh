#!/usr/bin/env bash
# What `make run` does once the program is built: a Blueflood stand-in, the daemon, and this host's own load, memory and
# network figures going through them every second. Ctrl-C ends all of it: the daemon first, so that it can deliver. The ports
# are those of the environment, as `make run GRAPHITE=12003 SINK=127.0.0.1:29000 STATS=127.0.0.1:18004` sets it.
set -u
program=$1
sink=${SINK:-127.0.0.1:19000}
graphite=${GRAPHITE:-2003}
stats=${STATS:-127.0.0.1:8004}

# A port that somebody has is said before anything starts, with a command that may work.
taken=
command="make run"
look() { # the name, where that is, and what it could be instead
    if (exec 3<>"/dev/tcp/${2%:*}/${2##*:}") 2>/dev/null; then
        echo "$2 is taken" >&2
        taken=yes
        command="$command $1=$3"
    elif [ -n "${!1:-}" ]; then
        command="$command $1=${!1}"
    fi
}
another() { echo "$(($1 < 55536 ? $1 + 10000 : $1 - 10000))"; }
look GRAPHITE "127.0.0.1:$graphite" "$(another "$graphite")"
look SINK "$sink" "${sink%:*}:$(another "${sink##*:}")"
look STATS "$stats" "${stats%:*}:$(another "${stats##*:}")"
if [ -n "$taken" ]; then
    echo "choose another port: $command" >&2
    exit 1
fi

folder=$(mktemp -d)

end() {
    trap '' INT TERM
    [ -n "${daemon:-}" ] && kill -TERM "$daemon" 2>/dev/null && wait "$daemon"
    [ -n "${blueflood:-}" ] && kill -TERM "$blueflood" 2>/dev/null && wait "$blueflood"
    rm -rf "$folder"
    exit "${1:-0}"
}
trap end INT TERM

# In a session of its own, so that Ctrl-C does not take it away before the daemon has delivered.
setsid "$program" sink --listen "$sink" &
blueflood=$!
setsid "$program" --blueflood "http://$sink" --query "http://$sink" --endpoint "tcp:port=$graphite:interface=127.0.0.1:protocol=auto" \
    --stats "$stats" --interval 2 --spool "$folder/spool.db" &
daemon=$!

figures() {
    read -r one five fifteen _ </proc/loadavg
    now=$(date +%s)
    printf 'try.load.%s %s %s\n' 1min "$one" "$now" 5min "$five" "$now" 15min "$fifteen" "$now"
    awk -v now="$now" '{ sub(":", "", $1); gsub(/[()]/, "", $1); print "try.memory." $1, $2 * 1024, now }' /proc/meminfo
    awk -v now="$now" 'NR > 2 { sub(":", " "); print "try.network." $1 ".received", $2, now
                                print "try.network." $1 ".sent", $10, now }' /proc/net/dev
}

cat <<EOF

This host's load, memory and network figures go to port $graphite every second, and from there to Blueflood's stand-in.
  the page, live          http://$stats/
  the daemon's figures    curl http://$stats/stats
  what arrived            curl 'http://$sink/v2.0/tenant/views/try.load.1min?from=0&to=9999999999999&resolution=FULL'
  a metric of your own    $program send --protocol line --to 127.0.0.1:$graphite my.metric 42
Ctrl-C ends it.

EOF

while kill -0 "$daemon" 2>/dev/null && kill -0 "$blueflood" 2>/dev/null; do
    sleep 1 &
    wait $!
    # The first second may be too early, and the last one too late.
    figures | "$program" send --protocol line --to "127.0.0.1:$graphite" >/dev/null 2>&1
done
echo "one of the two has ended: its last line says why" >&2
end 1
