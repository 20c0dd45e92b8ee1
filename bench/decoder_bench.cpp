// SPDX-License-Identifier: Apache-2.0
// Nanoseconds an instruction takes to decode, over the .text of a 64-bit ELF file: decoder_bench FILE [ROUNDS].
#include <elf.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>
#include <vector>

#include "softkvm/cpu/decoder.h"

namespace {

std::span<const uint8_t> find_text(const std::vector<uint8_t>& file) {
  Elf64_Ehdr header;
  if (file.size() < sizeof header) return {};
  std::memcpy(&header, file.data(), sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64) return {};
  const auto section = [&](unsigned i) {
    Elf64_Shdr s{};
    const size_t at = header.e_shoff + size_t(i) * sizeof s;
    if (at + sizeof s <= file.size()) std::memcpy(&s, file.data() + at, sizeof s);
    return s;
  };
  const Elf64_Shdr names = section(header.e_shstrndx);
  for (unsigned i = 0; i < header.e_shnum; i++) {
    const Elf64_Shdr s = section(i);
    const size_t name = names.sh_offset + s.sh_name;
    if (name + 6 > file.size() || s.sh_offset + s.sh_size > file.size()) continue;
    if (std::memcmp(file.data() + name, ".text", 6) == 0) return {file.data() + s.sh_offset, s.sh_size};
  }
  return {};
}

// This thread's own time: the host may do other things.
double cpu_nanoseconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) * 1e9 + double(t.tv_nsec);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace vireo::softkvm;
  if (argc < 2) return fprintf(stderr, "usage: decoder_bench FILE [ROUNDS]\n"), 1;
  std::ifstream in(argv[1], std::ios::binary);
  const std::vector<uint8_t> file{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  const std::span<const uint8_t> text = find_text(file);
  if (text.empty()) return fprintf(stderr, "%s: no 64-bit ELF file with a .text section\n", argv[1]), 1;
  const int rounds = argc > 2 ? atoi(argv[2]) : 5;
  for (int r = 0; r < rounds; r++) {
    size_t instructions = 0, refused = 0;
    Insn insn;
    const double start = cpu_nanoseconds();
    for (size_t at = 0; at < text.size();) {
      if (decode(text.data() + at, text.size() - at, CodeMode::k64, insn) == DecodeStatus::kOk) {
        at += insn.length;
        instructions++;
      } else {
        at++;
        refused++;
      }
    }
    const double ns = cpu_nanoseconds() - start;
    printf("%zu instructions, %zu bytes refused, %.1f ns each\n", instructions, refused, ns / double(instructions + refused));
  }
}
