// SPDX-License-Identifier: Apache-2.0
// micro NAME N: runs one row N rounds. micro --list: the rows and their operations per round.
#include "bench.h"
#include <string.h>

static const struct row *const groups[] = {integer_rows, vector_rows, string_rows, system_rows, exit_rows};

int main(int argc, char **argv) {
  if (argc == 2 && !strcmp(argv[1], "--exec")) return 0;  // what fork+exec starts
  if (argc == 2 && !strcmp(argv[1], "--list")) {
    for (unsigned g = 0; g < COUNT(groups); g++)
      for (const struct row *r = groups[g]; r->name; r++) printf("%s %u\n", r->name, r->ops);
    return 0;
  }
  if (argc != 3) return fprintf(stderr, "usage: micro NAME N\n"), 1;
  uint64_t n = strtoull(argv[2], 0, 10);
  for (unsigned g = 0; g < COUNT(groups); g++)
    for (const struct row *r = groups[g]; r->name; r++) {
      if (strcmp(r->name, argv[1])) continue;
      if (r->prepare && r->prepare()) return 77;
      r->run(1);  // touches code and data
      mark('B');
      uint64_t result = r->run(n);
      mark('E');
      printf("%s %llu %llx\n", r->name, (unsigned long long)n, (unsigned long long)result);
      return 0;
    }
  return fprintf(stderr, "micro: no row '%s'\n", argv[1]), 1;
}
