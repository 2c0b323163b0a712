#!/usr/bin/env bash
# Looks at a TLS listener as strangers do: sslscan and testssl.sh against a broker with certificates of `tidegate tls init`.
#
# usage: scripts/tls-scan.sh [--quick] [PROGRAM]
#
#   --quick   sslscan only
#   PROGRAM   the tidegate to start [default: target/release/tidegate, else target/debug/tidegate]
#
# Installs what is missing with apt, as root. Loopback only. It fails on any version but TLS 1.2 and 1.3, any cipher suite
# without forward secrecy, and any finding of testssl.sh above INFO except what a private authority cannot have: a chain
# that ends at a public root, revocation by OCSP or a list at a public address, DNS CAA, certificate transparency.
#
# Exit code: 0 when nothing was found, 1 when something was, 2 for wrong arguments, 3 when a tool is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

quick=no program=''
for argument in "$@"; do
    case $argument in
        --quick) quick=yes ;;
        -*)
            echo "usage: scripts/tls-scan.sh [--quick] [PROGRAM]" >&2
            exit 2
            ;;
        *) program=$argument ;;
    esac
done
if [[ -z $program ]]; then
    program=target/release/tidegate
    [[ -x $program ]] || program=target/debug/tidegate
fi
[[ -x $program ]] || {
    echo "there is no program at $program: cargo build" >&2
    exit 2
}

install() {
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        { apt-get update && apt-get install --yes --no-install-recommends "$@"; } >/dev/null 2>&1 || true
    fi
}
command -v sslscan >/dev/null || install sslscan
command -v sslscan >/dev/null || {
    echo "sslscan is not installed, and cannot be here" >&2
    exit 3
}
testssl=''
if [[ $quick == no ]]; then
    command -v testssl >/dev/null || command -v testssl.sh >/dev/null || install testssl.sh bsdextrautils dnsutils procps
    testssl=$(command -v testssl || command -v testssl.sh || true)
    [[ -n $testssl ]] || {
        echo "testssl.sh is not installed, and cannot be here" >&2
        exit 3
    }
fi

work=$(mktemp -d)
broker=''
# shellcheck disable=SC2317 # Called by the trap.
clean_up() {
    if [[ -n $broker ]]; then
        kill "$broker" 2>/dev/null || true
        wait "$broker" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT

"$program" tls init "$work/tls" --name localhost >/dev/null
cat >"$work/scan.yaml" <<YAML
listen:
  tcp: []
  tls: ["127.0.0.1:0"]
  unix: none
log:
  level: error
tls:
  certificates: ["$work/tls/server.pem"]
  keys: ["file:$work/tls/server.key"]
YAML
"$program" serve --config "$work/scan.yaml" --data "$work/data" &
broker=$!
for _ in $(seq 200); do
    [[ -e $work/data/ready.json ]] && break
    sleep 0.05
done
address=$(sed -n 's/.*"tls":\["\([^"]*\)"\].*/\1/p' "$work/data/ready.json")
[[ -n $address ]] || {
    echo "the broker does not listen" >&2
    exit 1
}
echo "== $("$program" --version) at $address"

failed=0
complain() {
    failed=1
    echo "FOUND: $*" >&2
}

echo "== sslscan"
sslscan --no-colour --no-check-certificate "$address" >"$work/sslscan"
for old in SSLv2 SSLv3 TLSv1.0 TLSv1.1; do
    grep -Eq "^$old +disabled" "$work/sslscan" || complain "$old is not disabled"
done
for new in TLSv1.2 TLSv1.3; do
    grep -Eq "^$new +enabled" "$work/sslscan" || complain "$new is not enabled"
done
grep -E '^(Preferred|Accepted) ' "$work/sslscan" >"$work/suites" || complain "no cipher suite was found"
while read -r line; do
    case $line in
        # All suites of TLS 1.3 have forward secrecy.
        *TLSv1.3*TLS_*) ;;
        *TLSv1.2*ECDHE-*GCM* | *TLSv1.2*ECDHE-*CHACHA20*) ;;
        *) complain "a weak suite: $line" ;;
    esac
done <"$work/suites"
grep -q 'not vulnerable to heartbleed' "$work/sslscan" || complain "heartbleed was not ruled out"
if grep -iE '(^| )vulnerable' "$work/sslscan" | grep -qiv 'not vulnerable'; then
    complain "sslscan calls it vulnerable"
fi
sed -n '/SSL\/TLS Protocols/,/Server Key Exchange/p' "$work/sslscan" | grep -E 'abled|supported|TLS_|ECDHE' || true

if [[ -n $testssl ]]; then
    echo "== testssl.sh"
    started=$SECONDS
    # Its own exit code counts findings that do not apply; the findings themselves are judged below.
    timeout --kill-after=10 300 "$testssl" --quiet --color 0 --warnings batch --ip one --nodns min \
        --add-ca "$work/tls/ca.pem" --jsonfile "$work/testssl.json" --protocols --fs --server-defaults --server-preference \
        --vulnerable --severity LOW "localhost:${address##*:}" >"$work/testssl" 2>&1 || true
    [[ -s $work/testssl.json ]] || complain "testssl.sh wrote nothing: $(tail -n 3 "$work/testssl")"
    # One finding a line: its id, severity and words.
    tr -d '\n' <"$work/testssl.json" | sed 's/},/}\n/g' |
        sed -n 's/.*"id"[^"]*"\([^"]*\)".*"severity"[^"]*"\([^"]*\)".*"finding"[^"]*"\([^"]*\)".*/\1\t\2\t\3/p' >"$work/findings"
    while IFS=$'\t' read -r id severity finding; do
        case $id in
            # A private authority has none of these.
            cert_chain_of_trust* | cert_caIssuers* | cert_trust* | cert_notAfter* | cert_crlDistributionPoints* | \
                cert_ocspURL* | cert_revocation* | DNS_CAArecord* | certificate_transparency* | OCSP_stapling* | \
                cert_extlifeSpan* | cert_validityPeriod*)
                echo "does not apply to a private authority: $id ($severity): $finding"
                ;;
            # It cannot know what is inside TLS, which is no HTTP.
            service* | scanTime* | engine_problem* | optimal_proto*) echo "about the scan: $id ($severity): $finding" ;;
            *) complain "$id ($severity): $finding" ;;
        esac
    done < <(grep -vE $'\t(OK|INFO|DEBUG)\t' "$work/findings" || true)
    echo "testssl.sh took $((SECONDS - started)) s"
fi

if [[ $failed == 0 ]]; then
    echo "== nothing found"
fi
exit "$failed"
