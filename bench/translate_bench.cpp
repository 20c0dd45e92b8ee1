// SPDX-License-Identifier: Apache-2.0
// What it costs to make blocks, on real code: every block of a file of translated code (vireo run --code-cache FOLDER leaves FOLDER/*.code) is made
// anew from the guest's bytes in it: translate_bench FILE [ROUNDS [BLOCKS]]. Prints nanoseconds of processor time for each block and each guest
// instruction, and a hash of all that translate() gives, by which two builds are seen to emit the same. No guest runs, so that exact counts are had by
// valgrind --tool=callgrind --toggle-collect='*softkvm::translate(*' (its CPU has fewer features than most, which changes nothing: the guest's has all).
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "softkvm/cpu/cpuid.h"
#include "softkvm/translate/code_file.h"
#include "softkvm/translate/translator.h"

using namespace vireo;
using namespace vireo::softkvm;

namespace {

// This thread's own time: the machine may have other work.
double cpu_nanoseconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

// FNV-1a.
class Hash {
 public:
  void add_bytes(const void* bytes, size_t size) {
    for (size_t i = 0; i < size; i++) value_ = (value_ ^ static_cast<const uint8_t*>(bytes)[i]) * 0x100000001b3ull;
  }
  template <class... T>
  void add(T... values) {
    (add_bytes(&values, sizeof values), ...);
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xcbf29ce484222325ull;
};

// What a stored block is made from: a page that has its bytes and no others.
struct Page {
  alignas(64) uint8_t bytes[4096];
  uint8_t cut[16];

  void lay_out(const StoredBlock& stored) {
    std::memset(this, 0, sizeof *this);
    const uint8_t* from = stored.source();
    for (unsigned i = 0; i < stored.range_count; from += stored.ranges()[i].size, i++) {
      const LookedAt& range = stored.ranges()[i];
      std::memcpy(bytes + range.at, from, std::min<size_t>(range.size, 4096 - range.at));
    }
    std::memcpy(cut, stored.source(), stored.straddle);
  }
};

constexpr size_t kBatch = 64;  // pages that are laid out before their blocks are made

struct Made {
  Block block{};
  BlockNotes notes;
  size_t used;
};

void add(Hash& hash, const Made& made, const uint8_t* code) {
  const Block& b = made.block;
  hash.add(b.gpa, b.mode, b.indirect_entry, b.linked_entry, b.guest_begin, b.guest_end, b.straddle, b.second_page);
  hash.add_bytes(code, made.used);
  hash.add(made.notes.instructions);
  for (const SideEntry& e : made.notes.all_side()) hash.add_bytes(&e, sizeof e);
  for (const LinkSite& s : made.notes.all_sites()) hash.add(s.at, s.unlinked, s.flags, s.ungrouped);
  hash.add(made.notes.look_count);
  for (unsigned i = 0; i < std::min(made.notes.look_count, kMostLooks); i++) hash.add(made.notes.looks[i].at, made.notes.looks[i].size);
}

void translate_all(const VcpuState& state, const std::vector<const StoredBlock*>& blocks, bool hashed) {
  std::vector<Page> pages(kBatch);
  std::vector<uint8_t> code(kBlockRoom);
  auto made = std::make_unique<Made>();
  Hash hash;
  double ns = 0;
  uint64_t instructions = 0, bytes = 0;
  for (size_t first = 0; first < blocks.size(); first += kBatch) {
    const size_t count = std::min(kBatch, blocks.size() - first);
    for (size_t i = 0; i < count; i++) pages[i].lay_out(*blocks[first + i]);
    const double start = cpu_nanoseconds();
    for (size_t i = 0; i < count; i++) {
      const StoredBlock& stored = *blocks[first + i];
      PageCopy page(pages[i].bytes);
      const Source source{page, stored.offset, stored.offset, stored.straddle ? pages[i].cut : nullptr, stored.mode, 0};
      made->notes.side_count = made->notes.site_count = 0;
      made->used = translate(state, source, code.data(), 0, made->block, made->notes);
      instructions += made->notes.instructions;
      bytes += made->used;
      if (hashed) add(hash, *made, code.data());
    }
    ns += cpu_nanoseconds() - start;
  }
  const auto per = [](double what, double of) { return what / std::max(of, 1.0); };
  if (hashed) printf("%zu blocks, %llu guest instructions, %llu bytes of code, hash %016llx\n", blocks.size(), (unsigned long long)instructions, (unsigned long long)bytes, (unsigned long long)hash.value());
  else printf("%.0f ns a block, %.1f ns a guest instruction\n", per(ns, static_cast<double>(blocks.size())), per(ns, static_cast<double>(instructions)));
}

int complain(const char* file, const std::string& why) { return fprintf(stderr, "%s: %s\n", file, why.c_str()), 1; }

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return fprintf(stderr, "usage: translate_bench FILE [ROUNDS [BLOCKS]]\n"), 1;
  const int rounds = argc > 2 ? atoi(argv[2]) : 5;
  const size_t most = argc > 3 ? strtoul(argv[3], nullptr, 0) : ~size_t{0};
  const int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
  CodeFileHead head;
  if (fd < 0 || pread(fd, &head, sizeof head, 0) != sizeof head) return complain(argv[1], "cannot be read");
  StoredBlocks stored;
  if (auto result = read_code_file(fd, head.key, stored); !result) return complain(argv[1], result.error().message);
  std::vector<const StoredBlock*> blocks;
  stored.each([&](const StoredBlock& b) {
    if (blocks.size() < most) blocks.push_back(&b);
  });

  std::unique_ptr<Vm> vm = Vm::create();
  auto cpuid = std::make_unique<CpuidTable>();
  std::ranges::fill(cpuid->words, ~0u);
  auto state = std::make_unique<VcpuState>();
  state->vm = vm.get();
  state->cpuid = cpuid.get();
  translate_all(*state, blocks, true);
  for (int i = 0; i < rounds; i++) translate_all(*state, blocks, false);
}
