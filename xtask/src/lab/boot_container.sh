# $0 is the host's folder. NAME CONTROL_GROUP NSPAWN
mkdir -p "$2"
setsid sh -euc '
echo 0 >"$2/cgroup.procs"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
while :; do
  code=0
  "$3" --quiet --register=no --keep-unit --boot --console=pipe --kill-signal=SIGRTMIN+3 \
    --directory="$0/root" --machine="$1" --hostname="$1" --uuid="$(cat "$0/uuid")" \
    --network-namespace-path="/run/netns/$1" --resolv-conf=off --timezone=off --link-journal=no || code=$?
  # The host asked for a reboot.
  [ $code = 133 ] || exit $code
done' "$0" "$1" "$2" "$3" </dev/null >>"$0/console.log" 2>&1 &
