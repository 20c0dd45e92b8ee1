# SPDX-License-Identifier: Apache-2.0
# Runs in the root when it is made: compiles the programs and makes their data, all from what the root holds.
cd /bench
# Aligned so that no loop lies across the end of a page by accident; one row does so on purpose.
gcc -O2 -static -Wall -pthread -falign-functions=1024 -o micro micro.c integer.c vector.c string.c system.c exits.c
gcc -O2 -static -Wall -o agent agent.c
gcc -O2 -Wall -o rsa rsa.c -lcrypto
mkdir -p data project
openssl genrsa 2048 > data/key.pem 2> /dev/null
find /usr/share/perl /usr/lib/x86_64-linux-gnu/perl-base /usr/include -type f \( -name '*.p[lm]' -o -name '*.h' \) | LC_ALL=C sort |
  xargs cat | head -c 25000000 > data/text
# Lines in an order that looks random, with some columns of numbers.
awk 'length($0) > 12 { h = (h * 1103 + length($0) * 7919 + NR) % 1000003; print h, NR % 977, h * 0.37, $1, $2 }' data/text > data/lines
# A C project of a dozen real files: the stb libraries, each with its implementation, and a program that uses some.
cd project
objects=
for name in image image_write image_resize2 image_resize truetype perlin rect_pack ds divide easy_font sprintf herringbone_wang_tile dxt; do
  [ -e /usr/include/stb/stb_$name.h ] || continue
  upper=$(echo $name | tr a-z A-Z)
  printf '#define STB_%s_IMPLEMENTATION\n#define STBI_ONLY_PNG\n#include <stb/stb_%s.h>\nint have_%s = 1;\n' $upper $name $name > $name.c
  if gcc -O1 -w -c $name.c -o /dev/null 2> /dev/null; then objects="$objects $name.o"; else rm $name.c; fi
done
{ echo '#include <stdio.h>'; for o in $objects; do echo "extern int have_${o%.o};"; done
  echo 'int main(void) { int sum = 0;'; for o in $objects; do echo "sum += have_${o%.o};"; done
  echo 'return puts(sum > 9 ? "all there" : "too few") < 0; }'; } > main.c
printf 'CFLAGS = -O1 -w\nproject: main.o%s\n\t$(CC) -o $@ $^ -lm\n' "$objects" > Makefile
make -n > /dev/null
