// SPDX-License-Identifier: Apache-2.0
// Spec: Intel SDM vol 2, CPUID; AMD APM vol 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst (leaves 0x4000000x).
#include "softkvm/cpu/cpuid_supported.h"

#include <cpuid.h>

#include <initializer_list>

namespace vireo::softkvm {

namespace {

constexpr uint32_t bits(std::initializer_list<unsigned> list) {
  uint32_t value = 0;
  for (unsigned b : list) value |= 1u << b;
  return value;
}

constexpr uint64_t kXcr0Avx = 6, kXcr0Avx512 = 0xe6, kXcr0Pkru = 1 << 9;

// Leaf 1 ECX: SSE3 PCLMULQDQ SSSE3 CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES RDRAND; with AVX state: FMA AVX F16C.
constexpr uint32_t k1EcxHost = bits({0, 1, 9, 13, 19, 20, 22, 23, 25, 30}), k1EcxAvx = bits({12, 28, 29});
constexpr uint32_t k1EcxOurs = bits({17 /*PCID*/, 21 /*x2APIC*/, 24 /*TSC deadline*/, 31 /*hypervisor*/});
// Leaf 1 EDX: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 SS. Every x86-64 host runs these.
constexpr uint32_t k1EdxOurs = bits({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27});
// Leaf 7 EBX: BMI1 FDP_EXCPTN_ONLY BMI2 ZERO_FCS_FDS RDSEED ADX CLFLUSHOPT CLWB SHA; AVX2; F DQ IFMA CD BW VL.
constexpr uint32_t k7EbxHost = bits({3, 6, 8, 13, 18, 19, 23, 24, 29}), k7EbxAvx = bits({5}), k7EbxAvx512 = bits({16, 17, 21, 28, 30, 31});
constexpr uint32_t k7EbxOurs = bits({0 /*FSGSBASE*/, 1 /*TSC_ADJUST*/, 7 /*SMEP*/, 9 /*ERMS*/, 10 /*INVPCID*/, 20 /*SMAP*/});
// Leaf 7 ECX: GFNI CLDEMOTE MOVDIRI MOVDIR64B; VAES VPCLMULQDQ; VBMI VBMI2 VNNI BITALG VPOPCNTDQ.
constexpr uint32_t k7EcxHost = bits({8, 25, 27, 28}), k7EcxAvx = bits({9, 10}), k7EcxAvx512 = bits({1, 6, 11, 12, 14});
constexpr uint32_t k7EcxOurs = bits({2 /*UMIP*/, 16 /*LA57*/, 22 /*RDPID*/}), k7EcxPku = bits({3}), k7EcxPks = bits({31});
// Leaf 7 EDX: SERIALIZE; VP2INTERSECT FP16. Ours: FSRM, IBRS and IBPB, STIBP, ARCH_CAPABILITIES (which says that they are always on).
constexpr uint32_t k7EdxHost = bits({14}), k7EdxAvx512 = bits({8, 23}), k7EdxOurs = bits({4, 26, 27, 29});
// Leaf 7.1: FZRM FSRS FSRC; AVX-VNNI AVX-IFMA; BF16. EDX: none, the decoder knows neither AVX-VNNI-INT8 nor AVX-NE-CONVERT.
constexpr uint32_t k71EaxHost = bits({10, 11, 12}), k71EaxAvx = bits({4, 23}), k71EaxAvx512 = bits({5});
// Leaf 0x80000001 ECX: LAHF LZCNT SSE4A MISALIGNSSE PREFETCHW. EDX: SYSCALL NX 1G pages RDTSCP LM; AMD repeats leaf 1's there, and MMXEXT.
constexpr uint32_t kExt1EcxHost = bits({0, 5, 6, 7, 8}), kExt1EdxOurs = bits({11, 20, 26, 27, 29});
constexpr uint32_t kExt1EdxAmdCopy = 0x0183f3ff, kExt1EdxAmdHost = bits({22});
// Leaf 0x80000008 EBX: CLZERO XSAVEERPTR RDPRU WBNOINVD. Ours for AMD guests: IBPB, SSB_NO, BTC_NO.
constexpr uint32_t kExt8EbxHost = bits({0, 2, 4, 9}), kExt8EbxAmdOurs = bits({12, 26, 29});
// Leaf 0x80000021 EAX: no nested data breakpoints, LFENCE serializing. Ours: null selectors clear the base, SRSO_NO. ECX: TSA_SQ_NO, TSA_L1_NO.
constexpr uint32_t kExt21EaxHost = bits({0, 2}), kExt21EaxOurs = bits({6, 29}), kExt21EcxOurs = bits({1, 2});

constexpr uint32_t kAmdEbx = 0x68747541, kHygonEbx = 0x6f677948;

class Builder {
 public:
  Builder(const CpuidHost& host, const CpuidOptions& options) : host_(host), options_(options) {
    vendor_ = host.query(0, 0);
    amd_ = vendor_.ebx == kAmdEbx || vendor_.ebx == kHygonEbx;
    max_ = vendor_.eax;
    max_extended_ = host.query(0x80000000, 0).eax;
    xsave_ = host.xcr0 & 1;
    xcr0_ = xsave_ ? host.xcr0 & options.xcr0 & ~kXcr0Pkru : 0;
    if ((xcr0_ & kXcr0Avx) != kXcr0Avx) xcr0_ &= 3;
    if ((xcr0_ & kXcr0Avx512) != kXcr0Avx512) xcr0_ &= 7;
    avx_ = xcr0_ & 4;
    avx512_ = (xcr0_ & kXcr0Avx512) == kXcr0Avx512;
    pku_ = options.pku && xsave_;
  }

  std::vector<CpuidEntry> build() {
    basic();
    structured_features();
    xsave();
    add(0x40000000, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);  // "KVMKVMKVM"
    add(0x40000001, options_.paravirtual, 0, 0, 0);
    extended();
    return std::move(out_);
  }

 private:
  CpuidEntry& add(uint32_t function, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx) {
    return out_.emplace_back(CpuidEntry{function, 0, 0, eax, ebx, ecx, edx});
  }
  CpuidEntry& add_indexed(uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx) {
    return out_.emplace_back(CpuidEntry{function, index, CpuidEntry::kSignificantIndex, eax, ebx, ecx, edx});
  }
  CpuidEntry from_host(uint32_t function, uint32_t index) const {
    uint32_t max = function >= 0x80000000 ? max_extended_ : max_;
    return function <= max ? host_.query(function, index) : CpuidEntry{function, index};
  }
  // The host's bits that need no state, AVX's, AVX-512's.
  uint32_t execution(uint32_t host, uint32_t plain, uint32_t avx, uint32_t avx512) const {
    return host & (plain | (avx_ ? avx : 0) | (avx512_ ? avx512 : 0));
  }

  void basic() {
    add(0, xsave_ ? 0xd : 0xb, vendor_.ebx, vendor_.ecx, vendor_.edx);
    CpuidEntry one = host_.query(1, 0);
    uint32_t ecx = execution(one.ecx, k1EcxHost, k1EcxAvx, 0) | k1EcxOurs | (xsave_ ? 1u << 26 : 0) | (options_.mwait ? 1u << 3 : 0);
    add(1, one.eax, 1 << 16 | 8 << 8, ecx, k1EdxOurs);
    if (!amd_) {
      add(2, 0x00feff01, 0xf0, 0, 0);  // caches: see leaf 4; TLBs: leaf 0x18; 64-byte prefetch
      cache_leaf(4);
    }
    add(5, 0, 0, options_.mwait ? 3 : 0, 0);
    add(6, 1 << 2, 0, 0, 0);  // the APIC timer runs always
    // Topology is the machine's to fill in.
    add_indexed(0xb, 0, 0, 0, 0, 0);
  }

  // 32 KiB and 32 KiB of 8 ways, 1 MiB of 16 ways, 16 MiB of 16 ways; lines of 64 bytes.
  void cache_leaf(uint32_t function) {
    struct Cache {
      uint32_t type, level, ways, sets;
      bool shared;
    };
    constexpr Cache kCaches[] = {{1, 1, 8, 64, false}, {2, 1, 8, 64, false}, {3, 2, 16, 1024, false}, {3, 3, 16, 16384, true}};
    uint32_t index = 0;
    for (const Cache& c : kCaches)
      add_indexed(function, index++, c.type | c.level << 5 | 1 << 8, (c.ways - 1) << 22 | 63, c.sets - 1, c.shared ? 4 : 0);
    add_indexed(function, index, 0, 0, 0, 0);
  }

  void structured_features() {
    CpuidEntry h = from_host(7, 0);
    CpuidEntry h1 = h.eax >= 1 ? from_host(7, 1) : CpuidEntry{};
    add_indexed(7, 0, 1, execution(h.ebx, k7EbxHost, k7EbxAvx, k7EbxAvx512) | k7EbxOurs,
                execution(h.ecx, k7EcxHost, k7EcxAvx, k7EcxAvx512) | k7EcxOurs | (pku_ ? k7EcxPku : 0) | (options_.pks ? k7EcxPks : 0),
                execution(h.edx, k7EdxHost, 0, k7EdxAvx512) | k7EdxOurs);
    add_indexed(7, 1, execution(h1.eax, k71EaxHost, k71EaxAvx, k71EaxAvx512), 0, 0, 0);
  }

  void xsave() {
    if (!xsave_) return;
    CpuidEntry h1 = from_host(0xd, 1);
    // XSAVES runs as XSAVEC with no supervisor state, so it needs the host's XSAVEC alone.
    uint32_t eax = h1.eax & 7;
    if (h1.eax & 2) eax |= 8;
    uint32_t end = 576;
    std::vector<CpuidEntry> components;
    for (uint32_t i = 2; i < 63; i++) {
      if (!(xcr0_ >> i & 1)) continue;
      CpuidEntry c = from_host(0xd, i);
      if (c.ebx + c.eax > end) end = c.ebx + c.eax;
      components.push_back(CpuidEntry{0xd, i, CpuidEntry::kSignificantIndex, c.eax, c.ebx, c.ecx & 2, 0});
    }
    uint64_t xcr0 = xcr0_;
    if (pku_) {
      CpuidEntry h = host_.xcr0 & kXcr0Pkru ? from_host(0xd, 9) : CpuidEntry{};
      uint32_t offset = h.ebx ? h.ebx : (end + 63) & ~63u;
      components.push_back(CpuidEntry{0xd, 9, CpuidEntry::kSignificantIndex, 8, offset, 0, 0});
      if (offset + 8 > end) end = offset + 8;
      xcr0 |= kXcr0Pkru;
    }
    add_indexed(0xd, 0, static_cast<uint32_t>(xcr0), 576, end, static_cast<uint32_t>(xcr0 >> 32));
    add_indexed(0xd, 1, eax, 576, 0, 0);
    for (const CpuidEntry& c : components) out_.push_back(c);
  }

  void extended() {
    add(0x80000000, amd_ ? 0x80000021 : 0x80000008, amd_ ? vendor_.ebx : 0, amd_ ? vendor_.ecx : 0, amd_ ? vendor_.edx : 0);
    CpuidEntry h = from_host(0x80000001, 0);
    uint32_t edx = kExt1EdxOurs;
    if (amd_) edx |= (k1EdxOurs & kExt1EdxAmdCopy) | (h.edx & kExt1EdxAmdHost);
    add(0x80000001, amd_ ? h.eax : 0, 0, h.ecx & kExt1EcxHost, edx);
    for (uint32_t f = 0x80000002; f <= 0x80000004; f++) {  // the brand string
      CpuidEntry b = from_host(f, 0);
      add(f, b.eax, b.ebx, b.ecx, b.edx);
    }
    if (amd_) {
      // L1: 32 KiB, 8 ways, 64-byte lines. L2: 1 MiB, 16 ways (encoded 8). L3: 16 MiB (units of 512 KiB), 16 ways.
      add(0x80000005, 0xff40ff40, 0xff40ff40, 32 << 24 | 8 << 16 | 1 << 8 | 64, 32 << 24 | 8 << 16 | 1 << 8 | 64);
      add(0x80000006, 0, 0x48004800, 1024 << 16 | 8 << 12 | 1 << 8 | 64, 32 << 18 | 8 << 12 | 1 << 8 | 64);
    } else {
      add(0x80000006, 0, 0, 1024 << 16 | 8 << 12 | 64, 0);
    }
    add(0x80000007, 0, 0, 0, from_host(0x80000007, 0).edx & 1 << 8);  // invariant TSC
    CpuidEntry sizes = from_host(0x80000008, 0);
    uint32_t physical = sizes.eax & 0xff;
    if (physical < 36 || physical > 52) physical = 36;
    add(0x80000008, physical | 57 << 8, (sizes.ebx & kExt8EbxHost) | (amd_ ? kExt8EbxAmdOurs : 0), 0, 0);
    if (amd_) {
      CpuidEntry x = from_host(0x80000021, 0);
      add(0x80000021, (x.eax & kExt21EaxHost) | kExt21EaxOurs, 0, kExt21EcxOurs, 0);
    }
  }

  const CpuidHost& host_;
  const CpuidOptions& options_;
  CpuidEntry vendor_;
  uint32_t max_ = 0, max_extended_ = 0;
  uint64_t xcr0_ = 0;
  bool amd_ = false, xsave_ = false, avx_ = false, avx512_ = false, pku_ = false;
  std::vector<CpuidEntry> out_;
};

}  // namespace

CpuidHost CpuidHost::bare() {
  CpuidHost host;
  host.query = [](uint32_t function, uint32_t index) {
    CpuidEntry e{function, index};
    __cpuid_count(function, index, e.eax, e.ebx, e.ecx, e.edx);
    return e;
  };
  host.xcr0 = 0;
  if (host.query(1, 0).ecx & 1u << 27) {
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    host.xcr0 = low | static_cast<uint64_t>(high) << 32;
  }
  return host;
}

std::vector<CpuidEntry> supported_cpuid(const CpuidHost& host, const CpuidOptions& options) { return Builder(host, options).build(); }

std::unique_ptr<CpuidTable> make_cpuid_table(std::span<const CpuidEntry> entries) {
  if (entries.size() > CpuidTable::kMaxEntries) return nullptr;
  auto table = std::make_unique<CpuidTable>();
  for (const CpuidEntry& e : entries) table->entries[table->count++] = e;
  table->seal();
  return table;
}

}  // namespace vireo::softkvm
