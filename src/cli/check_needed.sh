#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# check_needed.sh PROGRAM: fails if starting the program loads more than the C library (docs/libraries.md; where it is built with a sanitizer, also
# what that brings), or if a library that it loads later and that is not there is not an error which names it.
set -euo pipefail
program=$1
needed=$(readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
few='libc|libm|ld-linux-x86-64'
if grep -qE '^lib(asan|ubsan|tsan)\.' <<< "$needed"; then few+='|libstdc\+\+|libgcc_s|libasan|libubsan|libtsan'; fi
more=$(grep -vE "^($few)\.so\.[0-9]+$" <<< "$needed" || true)
if [ -n "$more" ]; then
  echo "$program needs from its start:" $more
  exit 1
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
absent() {  # SONAME ARGUMENTS...: as where the library is not installed
  local soname=$1 other=X${1:1} said status=0
  shift
  grep -q "$soname" "$program" || { echo "$program does not know $soname"; exit 1; }
  sed "s/$soname/$other/g" "$program" > "$folder/vireo"
  chmod +x "$folder/vireo"
  said=$("$folder/vireo" "$@" 2>&1 < /dev/null) || status=$?
  if [ "$status" -ne 1 ] || [ "$(grep -c "$other: cannot open shared object file" <<< "$said")" -ne 1 ]; then
    echo "vireo $* without $soname: status $status: $said"
    exit 1
  fi
}
absent libnbd.so.0 img info nbd://localhost/absent
absent libgcrypt.so.20 img create --object secret,id=s,data=x -f luks -o key-secret=s,iter-time=10 "$folder/disk" 1M
absent libcrypto.so.3 img create --object secret,id=s,data=x -f luks -o key-secret=s,iter-time=10 "$folder/disk" 1M
: > "$folder/raw"
absent libssl.so.3 nbd -f raw --tls-cert "$folder/absent" --tls-key "$folder/absent" -b 127.0.0.1 -p 0 "$folder/raw"
