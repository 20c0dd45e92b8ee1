// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/executable_page.h"

#include <cstring>
#include <memory>

#include "softkvm/cpu/decoder.h"
#include "softkvm/native/aux_liveness.h"
#include "softkvm/native/host_components.h"
#include "softkvm/native/host_segment_bases.h"

namespace vireo::softkvm {
namespace {

// `second` stands behind 0F, `modrm` behind it; `f3`: the prefix F3 stands in front, with or without others between. Intel SDM vol 2,
// appendix A; AMD APM vol 3, appendix A (RDPRU, VMMCALL).
bool forbidden(bool f3, uint8_t second, uint8_t modrm) {
  switch (second) {
    case 0xa2: return true;                                                              // CPUID
    case 0x34: return true;                                                              // SYSENTER
    case 0x02:                                                                           // LAR
    case 0x03: return modrm >= 0xc0;                                                     // LSL
    case 0xc7: return f3 && modrm >= 0xf8;                                               // RDPID
    case 0xae: return f3 && modrm >= 0xd0 && modrm < 0xe0 && !host_keeps_segment_bases();  // WRFSBASE, WRGSBASE
    case 0x01: return modrm == 0xc1 || modrm == 0xd4 || modrm == 0xd9 || modrm == 0xfd;  // VMCALL, VMFUNC, VMMCALL, RDPRU
    default: return false;
  }
}

// XGETBV, RDPKRU, WRPKRU, XSAVE and XSAVEC where the host has components that the guest has not. XSAVEOPT leaves out those in their initial state, and
// a stub begins with them so.
bool tells_components(std::span<const uint8_t> bytes, size_t at, bool f3) {
  const uint64_t beyond = components_of_the_host_alone();
  if (!beyond) return false;
  const uint8_t second = bytes[at + 1], modrm = bytes[at + 2];
  if (second == 0x01) return modrm == 0xd0 || modrm == 0xee || modrm == 0xef;
  const bool saves = ((second == 0xae && !f3) || second == 0xc7) && modrm < 0xc0 && (modrm >> 3 & 7) == 4;
  if (!saves) return false;
  // The C library's lazy binding saves what it names: `mov eax, mask; xor edx, edx`, stores of the header, and the XSAVEC (glibc's
  // sysdeps/x86_64/dl-trampoline.h).
  constexpr size_t kFar = 96, kNaming = 7;
  for (size_t from = at > kFar ? at - kFar : 0; from + kNaming <= at; from++) {
    if (bytes[from] != 0xb8 || bytes[from + 5] != 0x31 || bytes[from + 6] != 0xd2) continue;
    uint32_t mask;
    memcpy(&mask, &bytes[from + 1], sizeof mask);
    return mask & beyond;
  }
  return true;
}

constexpr ptrdiff_t kMostPrefixes = 13;  // of an instruction of 15 bytes with an opcode of two

// Legacy or REX. Intel SDM vol 2, 2.1.1 and 2.2.1.
bool is_prefix(uint8_t byte) {
  switch (byte) {
    case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3: return true;
    default: return (byte & 0xf0) == 0x40;
  }
}

// Is the opcode's mandatory prefix F3? The last of F2 and F3 counts, wherever it stands among the prefixes.
bool has_f3(const uint8_t* begin, const uint8_t* opcode) {
  for (const uint8_t* p = opcode; p > begin && opcode - p < kMostPrefixes && is_prefix(p[-1]); p--)
    if (p[-1] == 0xf2 || p[-1] == 0xf3) return p[-1] == 0xf3;
  return false;
}

// Can an instruction begin at `at`? Streams of x86 code fall into step with each other within a few instructions, wherever they are begun: if none of
// sixteen does, what comes before is code that goes over the place. Where there is too little before to tell, one can.
bool may_begin(std::span<const uint8_t> bytes, size_t at) {
  constexpr size_t kFar = 72, kStreams = 16, kBehind = 8;
  if (at < kFar || at + kBehind > bytes.size()) return true;
  // The same code is asked about in each process that runs it. By a hash (FNV-1a, of eight bytes a step) of all that is decoded.
  struct Known {
    uint64_t hash;
    bool answer;
  };
  constexpr size_t kKnown = 4096;
  // Not in the thread's own memory itself: that is filled with zeroes for each thread of the program.
  static thread_local const auto known = std::make_unique<Known[]>(kKnown);
  uint64_t hash = 0xcbf29ce484222325ull;
  for (size_t i = at - kFar; i < at + kBehind; i += 8) {
    uint64_t word;
    memcpy(&word, bytes.data() + i, 8);
    hash = (hash ^ word) * 0x100000001b3ull;
    hash ^= hash >> 29;
  }
  Known& place = known[hash % kKnown];
  if (place.hash == hash) return place.answer;
  place = {hash, false};
  for (size_t start = at - kFar; start < at - kFar + kStreams; start++) {
    size_t here = start;
    while (here < at) {
      Insn insn;
      if (decode(bytes.data() + here, bytes.size() - here, CodeMode::k64, insn) != DecodeStatus::kOk) break;
      here += insn.length;
    }
    if (here == at) {
      place.answer = true;
      break;
    }
  }
  return place.answer;
}

// The opcode at `at`, which has its second byte.
bool unfit(std::span<const uint8_t> bytes, size_t at, bool f3, TimeStamps time_stamps) {
  const uint8_t second = bytes[at + 1];
  const bool has_third = bytes.size() - at >= 3;
  if (second == 0x31) return time_stamps == TimeStamps::kUnfit;  // RDTSC
  if (has_third && second == 0x01 && bytes[at + 2] == 0xf9)      // RDTSCP
    return time_stamps == TimeStamps::kUnfit || (time_stamps == TimeStamps::kRun && !counter_dies(bytes, at + 3));
  // CPUID and SYSENTER have no ModRM byte; of the others a third byte that is not here is the seam's affair.
  return has_third ? forbidden(f3, second, bytes[at + 2]) || tells_components(bytes, at, f3) : second == 0xa2 || second == 0x34;
}

}  // namespace

size_t next_unfit(std::span<const uint8_t> bytes, size_t from, TimeStamps time_stamps) {
  const uint8_t *const begin = bytes.data(), *const end = begin + bytes.size();
  const uint8_t* p = begin + from;
  while ((p = static_cast<const uint8_t*>(memchr(p, 0x0f, static_cast<size_t>(end - p))))) {
    if (end - p < 2) break;
    if (unfit(bytes, static_cast<size_t>(p - begin), has_f3(begin, p), time_stamps)) {
      // With prefixes the instruction begins before the opcode.
      for (const uint8_t* first = p;; first--) {
        if (may_begin(bytes, static_cast<size_t>(first - begin))) return static_cast<size_t>(p - begin);
        if (first == begin || p - first == kMostPrefixes || !is_prefix(first[-1])) break;
      }
    }
    p++;
  }
  return bytes.size();
}

void make_unfit_trap(std::span<uint8_t> bytes, TimeStamps time_stamps) {
  for (size_t at = 0; (at = next_unfit(bytes, at, time_stamps)) < bytes.size(); at += 2) bytes[at + 1] = 0x0b;  // 0F 0B: UD2
}

bool seam_runs_natively(const uint8_t* page, const uint8_t* next, TimeStamps time_stamps) {
  // Opcodes of up to three bytes that are in both pages, or in the next one with prefixes in this one.
  constexpr size_t kBefore = 15, kBehind = 15, kOpcode = 3;
  uint8_t bytes[kBefore + kBehind];
  memcpy(bytes, page + 4096 - kBefore, kBefore);
  memcpy(bytes + kBefore, next, kBehind);
  for (size_t at = kBefore - kOpcode + 1; (at = next_unfit(bytes, at, time_stamps)) < sizeof bytes; at++) {
    // One that lies in the next page, with all of its prefixes, is that page's own affair.
    const uint8_t* first = bytes + at;
    while (first > bytes + kBefore && is_prefix(first[-1])) first--;
    if (first < bytes + kBefore || (first == bytes + kBefore && is_prefix(first[-1]))) return false;
  }
  return true;
}

}  // namespace vireo::softkvm
