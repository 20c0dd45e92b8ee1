#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# check_output.sh PROGRAM: fails if an export for one client keeps our own client waiting, if what is printed comes into an image while standard files are closed, or if output that does not get out is
# no error.
set -euo pipefail
program=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
bad() { echo "$*"; exit 1; }

disk=$folder/disk
truncate -s 1M "$disk"
before=$(sha256sum < "$disk")
"$program" io -f raw -c 'read -v 0 64k' "$disk" < /dev/null >&- 2> /dev/null || true
[ "$(sha256sum < "$disk")" = "$before" ] || bad "without standard output: what was printed is in the image"
"$program" io -f raw -c 'read -v 0 64k' "$disk" <&- >&- 2>&- || true
[ "$(sha256sum < "$disk")" = "$before" ] || bad "without standard files: what was printed is in the image"

"$program" nbd -f raw -r --fork -k "$folder/socket" "$disk"
timeout 20 "$program" img info -f raw "nbd+unix:///?socket=$folder/socket" > /dev/null < /dev/null || bad "an export for one client: ours does not come in"

for words in "img info $disk" "img map --output=json -f raw $disk" "run --help" "ctl --help" "--version"; do
  status=0
  # shellcheck disable=SC2086
  said=$("$program" $words 2>&1 > /dev/full < /dev/null) || status=$?
  [ "$status" -eq 1 ] || bad "vireo $words to a full disk: exit status $status"
  [[ $said == 'vireo: standard output: '* && $said != *$'\n'* ]] || bad "vireo $words to a full disk: '$said'"
done
"$program" img info "$disk" > /dev/null < /dev/null || bad "img info fails where it can write"
