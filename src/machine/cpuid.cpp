// SPDX-License-Identifier: Apache-2.0
// Spec: Intel SDM vol 2, CPUID; AMD APM vol 3, appendix E.
#include "machine/cpuid.h"

#include <algorithm>
#include <bit>
#include <cstdint>

namespace vireo {
namespace {

constexpr uint32_t kHypervisor = 1u << 31, kTscDeadline = 1u << 24, kHtt = 1u << 28, kX2apic = 1u << 21;

unsigned bits_for(unsigned count) { return count <= 1 ? 0 : static_cast<unsigned>(std::bit_width(count - 1)); }

}  // namespace

std::vector<kvm_cpuid_entry2> guest_cpuid(std::vector<kvm_cpuid_entry2> offer, unsigned cpu, unsigned cpus, bool tsc_deadline) {
  unsigned shift = bits_for(cpus);
  // The topology leaves are made anew below.
  std::erase_if(offer, [](const kvm_cpuid_entry2& e) { return e.function == 0xb || e.function == 0x1f; });
  uint32_t max_basic = 0;
  for (kvm_cpuid_entry2& e : offer) {
    switch (e.function) {
      case 0:
        e.eax = std::max<uint32_t>(e.eax, 0xb);
        if (e.eax >= 0x1f) e.eax = std::max<uint32_t>(e.eax, 0x1f);
        max_basic = e.eax;
        break;
      case 1:
        e.ebx = (e.ebx & 0xffff) | std::min(cpus, 255u) << 16 | (cpu & 0xff) << 24;
        e.edx = cpus > 1 ? e.edx | kHtt : e.edx & ~kHtt;
        e.ecx |= kHypervisor | kX2apic;
        if (tsc_deadline) e.ecx |= kTscDeadline;
        break;
      case 4:
        // Level 1 and 2 caches belong to a core, level 3 to all.
        if (e.eax & 31) {
          uint32_t sharing = (e.eax >> 5 & 7) >= 3 ? cpus - 1 : 0;
          e.eax = (e.eax & 0x3fff) | std::min(sharing, 0xfffu) << 14 | std::min(cpus - 1, 63u) << 26;
        }
        break;
      case 0x80000001:
        e.ecx = cpus > 1 ? e.ecx | 2 : e.ecx & ~2u;  // CmpLegacy: the logical processors are cores
        break;
      case 0x80000008:
        e.ecx = (e.ecx & ~0xf0ffu) | std::min(cpus - 1, 255u) | shift << 12;
        break;
      case 0x8000001e:
        e.eax = cpu;
        e.ebx = cpu & 0xff;
        e.ecx = 0;
        break;
    }
  }
  auto level = [&](uint32_t function, uint32_t index, uint32_t type, uint32_t width, uint32_t count) {
    offer.push_back({.function = function,
                     .index = index,
                     .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                     .eax = width,
                     .ebx = count,
                     .ecx = type << 8 | index,
                     .edx = cpu});
  };
  for (uint32_t function : {0xbu, 0x1fu}) {
    if (function > max_basic) continue;
    level(function, 0, 1, 0, 1);
    level(function, 1, 2, shift, cpus);
    level(function, 2, 0, 0, 0);
  }
  return offer;
}

}  // namespace vireo
